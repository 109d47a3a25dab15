//! The commands and configuration files that the documents show are ones that kmsfs takes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::{Cli, config};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README, the changelog and `docs/`.
fn documents() -> Vec<(PathBuf, String)> {
    let listed = fs::read_dir(root().join("docs")).expect("listed").flatten().map(|e| e.path());
    let top = ["README.md", "CHANGELOG.md", "SECURITY.md"].map(|name| root().join(name));
    let all = listed.filter(|path| path.extension().is_some_and(|e| e == "md")).chain(top);
    all.map(|path| (path.clone(), fs::read_to_string(&path).expect("text"))).collect()
}

/// The fenced blocks of a document with the word behind their fence, and the text outside of them.
fn parts(text: &str) -> (Vec<(String, String)>, String) {
    let (mut blocks, mut prose) = (Vec::<(String, String)>::new(), String::new());
    let mut is_within = false;
    for line in text.lines() {
        match (line.strip_prefix("```"), is_within) {
            (Some(kind), false) => blocks.push((kind.to_owned(), String::new())),
            (Some(_), true) => {}
            (None, true) => {
                let (_, block) = blocks.last_mut().expect("a fence has opened it");
                block.push_str(line);
                block.push('\n');
            }
            (None, false) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        is_within ^= line.starts_with("```");
    }
    (blocks, prose)
}

/// The command lines of kmsfs that a document shows, in blocks and between backquotes.
fn commands(text: &str) -> Vec<String> {
    let (blocks, prose) = parts(text);
    let mut found = Vec::new();
    for (_, block) in blocks {
        let whole = block.replace("\\\n", " ");
        found.extend(whole.lines().map(|line| line.trim_start_matches("$ ").to_owned()));
    }
    found.extend(prose.replace('\n', " ").split('`').skip(1).step_by(2).map(str::to_owned));
    // `kmsfs v1 …` is a label of the format's, from which keys are derived.
    let is_command = |line: &str| line.starts_with("kmsfs ") && !line.starts_with("kmsfs v1 ");
    let has_gap = |line: &str| line.contains('…') || line.starts_with("kmsfs VERB");
    found.retain(|line| is_command(line) && !has_gap(line));
    found
}

/// Up to where the shell takes over, without what a reader may leave out or choose among.
fn words(line: &str) -> Vec<OsString> {
    let own = line.split_whitespace().take_while(|w| !["|", ">", "&&", "#", ";"].contains(w));
    own.map(|word| word.trim_matches(['\'', '"', '[', ']'])).map(OsString::from).collect()
}

#[test]
fn commands_in_the_documents_are_commands() {
    let mut seen = 0;
    for (path, text) in documents() {
        for line in commands(&text) {
            seen += 1;
            // A verb alone names it, and says nothing of what else it wants.
            let is_fine = match Cli::try_parse_from(words(&line)).map_err(|e| e.kind()) {
                Ok(_) => true,
                Err(kind) => matches!(
                    kind,
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                ),
            };
            assert!(is_fine, "{}: {line}", path.display());
        }
    }
    assert!(seen > 60, "{seen}");
}

/// Every example of a configuration file, with the lines that are commented out.
fn configurations() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for (path, text) in documents() {
        let blocks = parts(&text).0.into_iter().filter(|(kind, _)| kind == "toml");
        found.extend(blocks.map(|(_, block)| (path.clone(), block)));
    }
    let packaged = root().join("packaging/kmsfs.toml");
    let text = fs::read_to_string(&packaged).expect("text");
    let is_line = |line: &str| line.starts_with('[') || line.contains(" = ");
    let whole = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(out) if is_line(out) => out,
        _ => line,
    });
    found.push((packaged, whole.collect::<Vec<_>>().join("\n")));
    let page = root().join("man/kmsfs.toml.5");
    let text = fs::read_to_string(&page).expect("text");
    let example = text.split(".Bd -literal -offset indent\n").nth(1);
    let block = example.and_then(|rest| rest.split(".Ed").next()).expect("an example");
    found.push((page, block.to_owned()));
    found
}

#[test]
fn configuration_files_in_the_documents_are_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("kmsfs.toml");
    let all = configurations();
    assert!(all.len() >= 3, "{all:?}");
    for (path, text) in all {
        fs::write(&file, &text).expect("written");
        let typed = ["kmsfs".into(), "config".into(), "--config".into(), file.clone().into()];
        let checked = config::run(&config::ConfigCommand::Check, Cli::command(), &typed);
        assert!(checked.is_ok(), "{}: {checked:?}\n{text}", path.display());
    }
}
