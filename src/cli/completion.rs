//! `kmsfs completion`: what a shell is to load, and what it then asks this program for.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use clap::{Args, Command, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _,
};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::config;
use crate::console::failure::Failure;
use crate::console::printing::verbatim;
use crate::control;
use crate::kms::KeyAdmin;
use crate::kms::local::{self, LocalKms};

/// Set by the shell's script, to the shell's name.
const VARIABLE: &str = "KMSFS_COMPLETE";

/// Arguments of `completion`.
#[derive(Args)]
pub struct CompletionArgs {
    /// The shell
    shell: ShellArg,
}

/// The shells there is completion for.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShellArg {
    /// bash, with its package bash-completion.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// Runs `completion`: the script has the shell ask the `kmsfs` that it finds.
///
/// # Errors
/// [`Failure`] of making the script.
pub fn run(args: &CompletionArgs) -> Result<(), Failure> {
    let shell: &dyn EnvCompleter = match args.shell {
        ShellArg::Bash => &Bash,
        ShellArg::Zsh => &Zsh,
        ShellArg::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell
        .write_registration(VARIABLE, "kmsfs", "kmsfs", "kmsfs", &mut script)
        .map_err(|e| Failure::io("the script".as_ref(), &e))?;
    verbatim(&String::from_utf8_lossy(&script));
    Ok(())
}

/// Answers a shell, where one asks. To be called before there is a second thread.
///
/// # Errors
/// Of what the shell asked, or of answering.
pub fn answer(program: fn() -> Command) -> io::Result<bool> {
    let words = std::env::args_os();
    let folder = std::env::current_dir().ok();
    CompleteEnv::with_factory(|| with_candidates(program()))
        .var(VARIABLE)
        .try_complete(words, folder.as_deref())
        .map_err(io::Error::other)
}

/// What an operand or an option can be, by its name in the definition.
fn with_candidates(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_id().as_str() {
        "store" => arg.add(ArgValueCompleter::new(stores)),
        "mountpoint" => arg.add(ArgValueCompleter::new(mountpoints)),
        "recovery" => arg.add(ArgValueCompleter::new(PathCompleter::file())),
        "key" | "master_key" | "to" => arg.add(ArgValueCompleter::new(keys)),
        _ => arg,
    });
    command.mut_subcommands(with_candidates)
}

fn beginning(
    typed: &OsStr,
    names: impl IntoIterator<Item = (String, String)>,
) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    let fit = names.into_iter().filter(|(name, _)| name.starts_with(&*typed));
    fit.map(|(name, help)| CompletionCandidate::new(name).help(Some(help.into()))).collect()
}

/// Volumes of the configuration file, then folders.
fn stores(typed: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = beginning(typed, config::volumes().into_iter().map(|v| (v.name, v.store)));
    found.extend(PathCompleter::dir().complete(typed));
    found
}

/// Volumes with a mountpoint, what is mounted now, and folders, for `mount`.
fn mountpoints(typed: &OsStr) -> Vec<CompletionCandidate> {
    let named = config::volumes().into_iter().filter_map(|v| Some((v.name, v.mountpoint?)));
    let mounts = control::mounts().unwrap_or_default().into_iter();
    let mounts =
        mounts.map(|m| (m.mountpoint.display().to_string(), m.store.display().to_string()));
    let mut found = beginning(typed, named.chain(mounts));
    found.extend(PathCompleter::dir().complete(typed));
    found
}

/// Aliases and keys of the embedded keystore. Those in a KMS elsewhere would take a call of it.
fn keys(typed: &OsStr) -> Vec<CompletionCandidate> {
    let named = std::env::var_os("KMSFS_KEYSTORE").map(PathBuf::from);
    let path = named.unwrap_or_else(local::default_path);
    let Ok(keystore) = LocalKms::open_admin(&path) else { return Vec::new() };
    let aliases = keystore.aliases().unwrap_or_default();
    let ids = keystore.list().unwrap_or_default();
    let aliases = aliases.into_iter().map(|alias| (alias.name, alias.target));
    let ids =
        ids.into_iter().map(|key| (key.id, format!("{} {}", key.state.name(), key.description)));
    beginning(typed, aliases.chain(ids))
}
