//! Whether every name in the file is one, and every value one that the option takes.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::{Command, Subcommand};
use toml::Value;

use super::file::{File, PLACES, Volume};
use super::line::option;
use super::{option_words, wrong};
use crate::console::failure::Failure;
use crate::console::printing::say;

/// Verbs of `config`.
#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Read the configuration file as every verb does, and try each of its lines
    Check,
}

/// Runs `config`: it says which file counts, and which volumes that has.
///
/// # Errors
/// [`Failure`]: the first mistake in the file.
pub fn run(
    command: &ConfigCommand,
    mut program: Command,
    typed: &[OsString],
) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check => {}
    }
    let Some(file) = File::of(typed)? else {
        say!("no configuration file: kmsfs uses its defaults");
        return Ok(());
    };
    program.build();
    let mistake = |why: String| wrong(&file.path, &why);
    names(&program, &file).map_err(mistake)?;
    let volumes: Result<Vec<Volume<'_>>, String> = file.volumes().collect();
    let volumes = volumes.map_err(mistake)?;
    values(&program, &file, &volumes).map_err(mistake)?;
    say!("{}: every line counts", file.path.display());
    for volume in volumes {
        let at = volume.mountpoint.map(|at| format!(" at {}", at.display())).unwrap_or_default();
        say!("volume {}: {}{at}", volume.name, volume.store.display());
    }
    Ok(())
}

/// Every name is an option of some verb: a typing error must not go unseen.
pub(super) fn names(command: &Command, file: &File) -> Result<(), String> {
    let all: Vec<&Command> = command.get_subcommands().collect();
    for (name, _) in file.general() {
        is_option(name, "kmsfs", &all, &[])?;
    }
    for (name, own) in file.verbs() {
        let Some(verb) = command.find_subcommand(name) else {
            let verbs = command.get_subcommands().map(Command::get_name);
            return Err(format!("[{name}] is no verb of kmsfs{}", nearest(name, verbs)));
        };
        for name in own.keys() {
            is_option(name, &format!("kmsfs {}", verb.get_name()), &[verb], &[])?;
        }
    }
    for volume in file.volumes().flatten() {
        for name in volume.table.keys().filter(|name| !PLACES.contains(&name.as_str())) {
            is_option(name, "kmsfs", &all, &PLACES)?;
        }
    }
    Ok(())
}

/// `of` is what the verbs are called together; `others` are names that are good beside options.
fn is_option(name: &str, of: &str, verbs: &[&Command], others: &[&str]) -> Result<(), String> {
    if verbs.iter().any(|verb| option(verb, name).is_some()) {
        return Ok(());
    }
    let options = verbs.iter().flat_map(|verb| verb.get_arguments());
    let longs = options.filter_map(|option| option.get_long());
    let nearest = nearest(&name.replace('_', "-"), longs.chain(others.iter().copied()));
    Err(format!("{name} is no option of {of}{nearest}"))
}

/// `: did you mean …?` where a name is near enough.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// As near as clap wants it to be for its own hint.
    const NEAR: f64 = 0.7;
    let rated = known.map(|known| (strsim::jaro(name, known), known));
    let best = rated.filter(|(near, _)| *near > NEAR).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, known)| format!(": did you mean {known}?")).unwrap_or_default()
}

/// Each line is tried with each verb that it is for, as if it alone had been typed.
fn values(command: &Command, file: &File, volumes: &[Volume<'_>]) -> Result<(), String> {
    let general = file.general().map(|(name, value)| (None, name, value));
    let verbs = file.verbs().flat_map(|(verb, own)| {
        own.iter().map(move |(name, value)| (Some(verb.as_str()), name, value))
    });
    let tables = volumes.iter().flat_map(|volume| volume.table);
    let tables = tables.filter(|(name, _)| !PLACES.contains(&name.as_str()));
    for (verb, name, value) in general.chain(verbs).chain(tables.map(|(n, v)| (None, n, v))) {
        let is_for = |of: &&Command| verb.is_none_or(|verb| of.get_name() == verb);
        for verb in command.get_subcommands().filter(is_for) {
            takes(verb, name, value)?;
        }
    }
    Ok(())
}

fn takes(verb: &Command, name: &str, value: &Value) -> Result<(), String> {
    let Some(option) = option(verb, name) else { return Ok(()) };
    let words = option_words(option, name, value)?;
    // Neither other options nor variables are looked at.
    let alone = verb
        .clone()
        .mut_args(|arg| arg.required(false).env(Resettable::Reset))
        .subcommand_required(false)
        .arg_required_else_help(false);
    let typed = std::iter::once(OsString::from(verb.get_name())).chain(words);
    alone.try_get_matches_from(typed).map(drop).map_err(|e| {
        let text = e.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
    })
}
