//! `kmsfs man`: pages made from the one definition of the command line, and two that are written.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_mangen::Man;

use crate::console::failure::{Exit, Failure};
use crate::console::printing::{say, verbatim};

/// When the pages were last read through.
const DATE: &str = "2026-11-30";
/// Longer lines are broken: whoever edits or compares a page reads them.
const LINE: usize = 80;

/// Pages that no definition of options gives.
const WRITTEN: [(&str, &str); 2] = [
    ("mount.kmsfs.8", include_str!("../../man/mount.kmsfs.8")),
    ("kmsfs.toml.5", include_str!("../../man/kmsfs.toml.5")),
];

/// Arguments of `man`.
#[derive(Args)]
pub struct ManArgs {
    /// The page: kmsfs, a verb such as mount or key-create, mount.kmsfs, kmsfs.toml
    #[arg(default_value = "kmsfs")]
    page: String,
    /// Write every page into this folder instead
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Runs `man`.
///
/// # Errors
/// [`Failure`]: of a page that is not there, and of writing.
pub fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    let pages = pages(command);
    let Some(folder) = &args.to else {
        let asked = |(name, _): &&(String, String)| {
            let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
            stem == args.page || stem.strip_prefix("kmsfs-") == Some(&*args.page)
        };
        let Some((_, text)) = pages.iter().find(asked) else {
            let why = format!("{}: there is no such page", args.page);
            return Err(Failure::new(Exit::Usage, why).hint("see them all: kmsfs man --to DIR"));
        };
        verbatim(text);
        return Ok(());
    };
    fs::create_dir_all(folder).map_err(|e| Failure::io(folder, &e))?;
    for (name, text) in &pages {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|e| Failure::io(&path, &e))?;
        say!("{}", path.display());
    }
    Ok(())
}

/// The file name and the text of each page.
fn pages(mut command: Command) -> Vec<(String, String)> {
    command = command.disable_help_subcommand(true);
    command.build();
    let mut all = Vec::new();
    of_command(&command, "kmsfs", &mut all);
    all.extend(WRITTEN.map(|(name, text)| (name.to_owned(), text.to_owned())));
    all
}

fn of_command(command: &Command, name: &str, all: &mut Vec<(String, String)>) {
    let page = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("1")
        .date(DATE)
        .source(concat!("kmsfs ", env!("CARGO_PKG_VERSION")))
        .manual("kmsfs");
    let mut text = Vec::new();
    page.render(&mut text).expect("memory takes it");
    all.push((format!("{name}.1"), tidied(&String::from_utf8_lossy(&text))));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        of_command(verb, &format!("{name}-{}", verb.get_name()), all);
    }
}

/// As mandoc(1) wants it: no blanks at ends of lines, no empty lines, no break after a break, no
/// line that is too long.
fn tidied(page: &str) -> String {
    let mut out = String::new();
    for line in page.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        if line == ".br" && out.ends_with("\n.br\n") {
            continue;
        }
        if line.starts_with(['.', '\'']) {
            out.push_str(line);
            out.push('\n');
        } else {
            broken(line, &mut out);
        }
    }
    out
}

/// Breaks a line of text at blanks. A line that then began as a request would is kept from it.
fn broken(line: &str, out: &mut String) {
    let mut width = 0;
    for word in line.split(' ') {
        if width > 0 && width + 1 + word.len() > LINE {
            out.push('\n');
            width = 0;
        }
        if width > 0 {
            out.push(' ');
        } else if out.ends_with('\n') && word.starts_with(['.', '\'']) {
            out.push_str("\\&");
        }
        out.push_str(word);
        width += word.len() + 1;
    }
    out.push('\n');
}

/// Where `mandoc` is, and what it says of every page.
#[cfg(test)]
fn lint(folder: &std::path::Path) -> Option<String> {
    let mut mandoc = std::process::Command::new("mandoc");
    let files = fs::read_dir(folder).expect("listed").flatten().map(|entry| entry.path());
    let output = mandoc.arg("-Tlint").args(files).output().ok()?;
    let found = String::from_utf8_lossy(&output.stdout);
    // Which other pages are installed is this machine's affair.
    let own = found.lines().filter(|line| !line.contains("referenced manual not found"));
    Some(own.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn each_verb_has_a_page_and_mandoc_finds_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = pages(super::super::Cli::command());
        for (name, text) in &all {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        for wanted in ["kmsfs.1", "kmsfs-mount.1", "kmsfs-key-create.1", "mount.kmsfs.8"] {
            assert!(names.contains(&wanted), "{names:?}");
        }
        let mount = &all.iter().find(|(name, _)| name == "kmsfs-mount.1").expect("there").1;
        assert!(mount.contains("heartbeat") && !mount.contains(" \n"), "{mount}");
        match lint(folder.path()) {
            Some(found) => assert_eq!(found, ""),
            None => eprintln!("SKIPPED: mandoc (it is not installed)"),
        }
    }

    #[test]
    fn a_long_line_is_broken_and_begins_no_request() {
        let mut out = String::from(".SH X\n");
        broken(&format!("{} .dot {}", "x".repeat(78), "y".repeat(78)), &mut out);
        let wanted = format!(".SH X\n{}\n\\&.dot\n{}\n", "x".repeat(78), "y".repeat(78));
        assert_eq!(out, wanted);
    }
}
