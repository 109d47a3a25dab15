//! The configuration file: options as if they had been typed, before those that were.
//!
//! A line outside of tables is for every verb that has the option, a line in a table of the
//! verb's name for that verb. Variables win over the file, and what is typed over both.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use crate::console::failure::{Exit, Failure};
use crate::xdg;

/// The system's file, and root's only one: what a user's file names would run as root.
const SYSTEM: &str = "/etc/kmsfs.toml";

/// A command line, and the file that added to it.
pub(super) struct Applied {
    /// All words, the program's name first.
    pub(super) words: Vec<OsString>,
    /// The file, where options of it were put in.
    pub(super) file: Option<PathBuf>,
}

/// Puts the file's options into what was `typed` (with the program's name), after the verb.
///
/// # Errors
/// A file that cannot be read, that others may write, is not TOML, or names what is no option.
pub(super) fn apply(command: &Command, typed: Vec<OsString>) -> Result<Applied, Failure> {
    let Some(path) = find(&typed) else { return Ok(Applied { words: typed, file: None }) };
    let text = read(&path)?;
    let table: Table = text.parse().map_err(|e| wrong(&path, &format!("not TOML: {e}")))?;
    check(command, &path, &table)?;
    let verb_of = |word: &OsString| command.find_subcommand(word);
    let found = typed.iter().enumerate().skip(1).find_map(|(i, w)| Some((i, verb_of(w)?)));
    let Some((at, verb)) = found else { return Ok(Applied { words: typed, file: None }) };
    let own = table.get(verb.get_name()).and_then(Value::as_table);
    let mut put_in = Vec::new();
    let general = table
        .iter()
        .filter(|(name, v)| !v.is_table() && own.is_none_or(|own| !own.contains_key(*name)));
    for (name, value) in general.chain(own.into_iter().flatten()) {
        if let Some(option) = option(verb, name).filter(|o| !in_environment(o)) {
            put_in.extend(words(option, name, value).map_err(|why| wrong(&path, &why))?);
        }
    }
    let file = (!put_in.is_empty()).then_some(path);
    let mut words = typed;
    words.splice(at + 1..at + 1, put_in);
    Ok(Applied { words, file })
}

/// An error in the file.
pub(super) fn wrong(path: &Path, why: &str) -> Failure {
    let mut lines = why.trim_end().lines();
    let first = lines.next().unwrap_or_default();
    Failure::new(Exit::Config, format!("{}: {first}", path.display()))
        .details(lines)
        .hint("correct the file, or go without it: KMSFS_CONFIG= kmsfs …")
}

/// `--config`, `KMSFS_CONFIG` (empty: none), the user's, the system's: the first that there is.
fn find(typed: &[OsString]) -> Option<PathBuf> {
    let mut words = typed.iter().skip(1).take_while(|w| *w != "--");
    while let Some(word) = words.next() {
        if word == "--config" {
            return words.next().map(PathBuf::from);
        }
        if let Some(path) = word.to_str().and_then(|w| w.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    if let Some(path) = std::env::var_os("KMSFS_CONFIG") {
        return (!path.is_empty()).then(|| PathBuf::from(path));
    }
    let mut usual = vec![PathBuf::from(SYSTEM)];
    if !rustix::process::geteuid().is_root() {
        let base = xdg::folder_or("XDG_CONFIG_HOME", ".config");
        usual.splice(0..0, base.map(|base| base.join("kmsfs.toml")));
    }
    usual.into_iter().find(|path| path.exists())
}

/// Whoever may write the file says what is run at a lock, and which key is asked for.
fn read(path: &Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| wrong(path, &e.to_string());
    let meta = fs::metadata(path).map_err(failed)?;
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me && meta.uid() != 0 {
        return Err(wrong(path, "it belongs to another user, who could change what is run"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(wrong(path, "others may write it: chmod go-w it"));
    }
    fs::read_to_string(path).map_err(failed)
}

fn option<'a>(verb: &'a Command, name: &str) -> Option<&'a Arg> {
    let long = name.replace('_', "-");
    let short =
        |a: &&Arg| a.get_long().is_none() && a.get_short().is_some_and(|c| long == c.to_string());
    verb.get_arguments().find(|a| a.get_long() == Some(&long) || short(a))
}

fn in_environment(option: &Arg) -> bool {
    option.get_env().is_some_and(|name| std::env::var_os(name).is_some())
}

/// Every name in the file is an option of some verb: a typing error must not go unseen.
fn check(command: &Command, path: &Path, table: &Table) -> Result<(), Failure> {
    let known = |name: &str| command.get_subcommands().any(|verb| option(verb, name).is_some());
    for (name, value) in table {
        match value {
            Value::Table(own) => {
                let Some(verb) = command.find_subcommand(name) else {
                    return Err(wrong(path, &format!("[{name}] is no verb of kmsfs")));
                };
                if let Some(name) = own.keys().find(|name| option(verb, name).is_none()) {
                    let why = format!("{name} is no option of kmsfs {}", verb.get_name());
                    return Err(wrong(path, &why));
                }
            }
            _ if known(name) => {}
            _ => return Err(wrong(path, &format!("{name} is no option of kmsfs"))),
        }
    }
    Ok(())
}

/// The option as it would be typed.
fn words(option: &Arg, name: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let dashed = match option.get_long() {
        Some(long) => format!("--{long}"),
        None => format!("-{name}"),
    };
    let takes = !matches!(option.get_action(), ArgAction::SetTrue | ArgAction::Count);
    match value {
        Value::Boolean(yes) if !takes => Ok(if *yes { vec![dashed.into()] } else { Vec::new() }),
        _ if !takes => Err(format!("{name} is true or false")),
        Value::String(s) => Ok(vec![format!("{dashed}={s}").into()]),
        Value::Integer(n) => Ok(vec![format!("{dashed}={n}").into()]),
        Value::Array(many) => {
            let each = many.iter().map(|one| words(option, name, one));
            Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
        }
        _ => Err(format!("{name} is a text, a number or a list of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn put_in(file: &str, typed: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kmsfs.toml");
        fs::write(&path, file).expect("written");
        let config = format!("--config={}", path.display());
        let typed = typed.iter().map(|w| OsString::from(*w));
        let all = std::iter::once("kmsfs".into()).chain(typed).chain([config.into()]);
        let all = apply(&super::super::Cli::command(), all.collect());
        let mut all = all.map_err(|f| format!("{f:?}"))?.words;
        all.pop();
        Ok(all.into_iter().skip(1).map(|w| w.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn a_verbs_own_line_wins_over_the_general_one() {
        let file =
            "heartbeat = '5s'\nkeystore = '/k'\n[mount]\nheartbeat = '3s'\nwriteback = true\n";
        let got = put_in(file, &["mount", "s", "m"]);
        let wanted = ["mount", "--keystore=/k", "--heartbeat=3s", "--writeback", "s", "m"];
        assert_eq!(got.expect("valid"), wanted);
        assert_eq!(put_in(file, &["info", "s"]).expect("valid"), ["info", "s"]);
    }

    #[test]
    fn lists_numbers_and_underscores() {
        let got = put_in(
            "[mount]\nkey_cache = 7\nwriteback = false\no = ['ro', 'nodev']\n",
            &["mount", "s", "m"],
        );
        assert_eq!(got.expect("valid"), ["mount", "--key-cache=7", "-o=ro", "-o=nodev", "s", "m"]);
    }

    #[test]
    fn mistakes_are_named() {
        let said = |file| put_in(file, &["mount", "s", "m"]).expect_err("a mistake");
        assert!(said("hartbeat = '5s'").contains("hartbeat is no option of kmsfs"));
        assert!(said("[mont]\n").contains("[mont] is no verb"));
        assert!(said("[info]\nheartbeat = '5s'\n").contains("no option of kmsfs info"));
        assert!(said("[mount]\nwriteback = 'yes'\n").contains("true or false"));
        assert!(said("[mount]\nheartbeat = { a = 1 }\n").contains("a text, a number"));
        assert!(said("= 1").contains("not TOML"));
    }
}
