//! A command line before it is parsed: its verb, and its words that are no options.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgAction, Command};

/// A verb, as it was typed.
pub(super) struct Line<'a> {
    /// The verb of kmsfs, for which the file has a table.
    pub(super) verb: &'a Command,
    /// Where that word stands: options can follow it.
    pub(super) at: usize,
    /// The verb's own verb, where it is a family such as `policy`; else the verb.
    leaf: &'a Command,
    /// Where the words stand that are neither options nor an option's value, in order.
    operands: Vec<usize>,
}

impl<'a> Line<'a> {
    /// `None` where no verb was typed.
    pub(super) fn of(command: &'a Command, typed: &[OsString]) -> Option<Self> {
        let mut operands = operands(command, typed, 1);
        let at = *operands.first()?;
        let verb = command.find_subcommand(&typed[at])?;
        operands = self::operands(verb, typed, at + 1);
        let leaf = operands.first().and_then(|at| verb.find_subcommand(&typed[*at]));
        if let (Some(leaf), Some(at)) = (leaf, operands.first()) {
            operands = self::operands(leaf, typed, at + 1);
        }
        Some(Self { verb, at, leaf: leaf.unwrap_or(verb), operands })
    }

    /// Where the operand of this name stands, as the verb's definition calls it.
    pub(super) fn operand(&self, name: &str) -> Option<usize> {
        let position = self.leaf.get_positionals().position(|arg| arg.get_id() == name)?;
        self.operands.get(position).copied()
    }

    /// Whether the verb has an operand of this name.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.leaf.get_positionals().any(|arg| arg.get_id() == name)
    }
}

/// The option of a verb by its long name, with `_` for `-` where the writer likes; or by its
/// letter, where it has no long name.
pub(super) fn option<'a>(verb: &'a Command, name: &str) -> Option<&'a Arg> {
    let long = name.replace('_', "-");
    let short =
        |a: &&Arg| a.get_long().is_none() && a.get_short().is_some_and(|c| long == c.to_string());
    verb.get_arguments().find(|a| a.get_long() == Some(&long) || short(a))
}

/// Whether a value follows the option.
pub(super) fn takes_value(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Set | ArgAction::Append)
}

/// From `start` on. An option that is not known takes no value here: the line is no good then, and
/// the parser says so.
fn operands(verb: &Command, typed: &[OsString], start: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut words = typed.iter().enumerate().skip(start);
    while let Some((at, word)) = words.next() {
        let word = word.to_string_lossy();
        if word == "--" {
            found.extend(words.map(|(at, _)| at));
            break;
        }
        let is_followed = match (word.strip_prefix("--"), word.strip_prefix('-')) {
            (Some(long), _) => {
                !long.contains('=')
                    && (long == "config" || option(verb, long).is_some_and(takes_value))
            }
            (None, Some(letters)) if !letters.is_empty() => last_letter_waits(verb, letters),
            _ => {
                found.push(at);
                false
            }
        };
        if is_followed {
            words.next();
        }
    }
    found
}

/// Of letters in one word, the first that takes a value takes the rest of the word, or the next
/// word where there is no rest.
fn last_letter_waits(verb: &Command, letters: &str) -> bool {
    let of = |letter: char| verb.get_arguments().find(|a| a.get_short() == Some(letter));
    let taker = letters.char_indices().find(|(_, c)| of(*c).is_some_and(takes_value));
    taker.is_some_and(|(at, c)| at + c.len_utf8() == letters.len())
}

/// Whether a word can be a volume's name: a path has a `/`.
pub(super) fn as_name(word: &OsStr) -> Option<&str> {
    word.to_str().filter(|word| !word.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn operands_of(typed: &str) -> Vec<String> {
        let mut command = crate::cli::Cli::command();
        command.build();
        let words: Vec<OsString> = typed.split(' ').map(OsString::from).collect();
        let line = Line::of(&command, &words).expect("a verb");
        line.operands.iter().map(|at| words[*at].to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn values_of_options_are_no_operands() {
        assert_eq!(operands_of("kmsfs mount s m"), ["s", "m"]);
        assert_eq!(operands_of("kmsfs --config f mount --heartbeat 2s s -o ro m"), ["s", "m"]);
        assert_eq!(operands_of("kmsfs mount -f --heartbeat=2s s -oro m"), ["s", "m"]);
        assert_eq!(operands_of("kmsfs mount -fo ro s m"), ["s", "m"]);
        assert_eq!(operands_of("kmsfs mount --writeback s -- -m"), ["s", "-m"]);
        assert_eq!(operands_of("kmsfs policy --region r lint s"), ["s"]);
    }
}
