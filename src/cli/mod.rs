//! The command line: words, exit codes, hints.

mod again;
mod background;
mod backup;
mod completion;
mod config;
mod confirm;
mod descriptors;
#[cfg(test)]
mod documents;
mod export;
mod fsck;
mod help;
mod helper;
mod info;
mod init;
mod key;
mod keystore;
mod known;
mod log_file;
mod logging;
mod master;
mod mount;
mod pages;
mod pkcs11;
mod place;
mod policy;
mod process;
mod progress;
mod provider;
mod recipients;
mod recover;
mod remount;
mod repeats;
mod rewrap;
mod shred;
mod status;
mod unmount;
mod usage;
mod vault;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use crate::console::failure::{Exit, Failure};
use crate::console::options::{self, Output};
use crate::console::printing::{say, tell};
use crate::{bench, demo, walls};

/// A directory in which programs work as usual, while each file is encrypted on disk under a data
/// key of its own, wrapped by a master key in a KMS. Disable the master key, and the mount is
/// unreadable within seconds.
#[derive(Parser)]
#[command(name = "kmsfs", version, max_term_width = 100, args_override_self = true)]
struct Cli {
    /// The configuration file (default: /etc/kmsfs.toml; for users other than root,
    /// ~/.config/kmsfs.toml first)
    // Read by `config`, before anything is parsed.
    #[arg(long = "config", value_name = "FILE", global = true)]
    _config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Create a store
    Init(init::Init),
    /// Mount a store
    Mount(Box<mount::Mount>),
    /// Unmount a mount, and wait until its daemon has ended
    #[command(alias = "umount")]
    Unmount(unmount::Unmount),
    /// Show the state of one mount, or of every mount
    Status(status::StatusArgs),
    /// Show what a store's volume.json records; needs no key
    Info {
        /// The store
        store: PathBuf,
        /// Output format
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print a file of an unmounted store
    Cat(export::Cat),
    /// Copy the files of an unmounted store, decrypted, to a folder
    Export(export::Export),
    /// Copy a store, mounted or not; again and again to the same place
    Backup(backup::BackupArgs),
    /// Make a mount unreadable until `kmsfs unlock`
    Lock {
        /// The mount
        mountpoint: PathBuf,
    },
    /// Make a mount readable again after `lock`
    Unlock {
        /// The mount
        mountpoint: PathBuf,
    },
    /// Destroy the keys of files, so that their content can never be read again
    Shred(shred::Shred),
    /// Move every wrapped key of a store to another master key
    Rewrap(rewrap::RewrapArgs),
    /// Put a store whose master key is gone under a new one, with an identity of its recovery
    Recover(Box<recover::Recover>),
    /// Check an unmounted store, and repair what can be repaired without loss
    Fsck(fsck::FsckArgs),
    /// Measure this machine: the cipher, a folder, and a mount in it
    Bench(bench::Bench),
    /// Manage master keys
    Key {
        /// The KMS that holds the keys
        #[arg(long, env = "KMSFS_KMS", value_enum, default_value_t = options::KmsArg::Local, global = true)]
        kms: options::KmsArg,
        #[command(flatten)]
        args: options::KmsArgs,
        #[command(subcommand)]
        command: key::KeyCommand,
    },
    /// Check the configuration file
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
    /// Show what disabling a key does to programs at work on a mount, and that nothing is lost
    Demo(demo::Demo),
    /// Print a manual page, or write all of them to a folder
    Man(pages::ManArgs),
    /// Print the completion script of a shell
    Completion(completion::CompletionArgs),
    /// A program of the demonstration
    #[command(name = demo::VERB, hide = true)]
    Program(demo::Role),
    /// Generate, check and test key policies
    Policy {
        #[command(flatten)]
        kms: options::VolumeKmsArgs,
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Manage the embedded keystore
    Keystore {
        #[command(flatten)]
        keystore: options::KeystoreArgs,
        #[command(subcommand)]
        command: keystore::KeystoreCommand,
    },
}

/// The definition of the command line.
fn program() -> Command {
    help::complete(Cli::command())
}

fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&program().try_get_matches_from(words)?)
}

/// Reads a command line, the program's name first.
fn read(typed: &[OsString]) -> Result<Cli, Failure> {
    let applied = config::apply(program(), typed.to_vec())?;
    parse(&applied.words).map_err(|e| {
        if let Some(file) = applied.file
            && parse(typed).is_ok()
        {
            return config::wrong(&file, &e.to_string());
        }
        let _ = e.print();
        Failure::already_reported(if e.use_stderr() { Exit::Usage } else { Exit::Ok })
    })
}

/// Runs the command line, or does what mount(8) wants.
pub fn main() -> ExitCode {
    let typed: Vec<_> = std::env::args_os().collect();
    if typed.first().is_some_and(|program| helper::is_called_as(program)) {
        return helper_main(&typed);
    }
    match completion::answer(program) {
        Ok(false) => {}
        Ok(true) => return Exit::Ok.into(),
        Err(e) => return end(&Failure::new(Exit::Usage, format!("completion: {e}"))),
    }
    let cli = match read(&typed) {
        Ok(cli) => cli,
        Err(failure) => return end(&failure),
    };
    logging::to_stderr();
    // Most verbs see passphrases, keys or plaintext sooner or later.
    walls::keep_memory_private();
    let done = match cli.verb {
        Verb::Init(args) => init::run(&args),
        Verb::Mount(args) => mount::run(&args, &typed),
        Verb::Unmount(args) => unmount::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Info { store, output } => info::run(&store, output),
        Verb::Cat(args) => export::cat(&args),
        Verb::Export(args) => export::export(&args),
        Verb::Backup(args) => backup::run(&args),
        Verb::Lock { mountpoint } => status::lock(&mountpoint),
        Verb::Unlock { mountpoint } => status::unlock(&mountpoint),
        Verb::Shred(args) => shred::run(&args),
        Verb::Rewrap(args) => rewrap::run(&args),
        Verb::Recover(args) => recover::run(&args),
        Verb::Fsck(args) => fsck::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Config { command } => config::run(&command, program(), &typed),
        Verb::Man(args) => pages::man(&args, program()),
        Verb::Completion(args) => completion::run(&args),
        Verb::Program(args) => demo::program(&args),
        Verb::Policy { kms, command } => policy::run(&command, &kms),
        Verb::Key { kms, args, command } => key::run(&command, kms, &args),
        Verb::Keystore { keystore, command } => {
            keystore::run(&command, &keystore.path(), &keystore.passphrase())
        }
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => end(&failure),
    }
}

fn helper_main(typed: &[OsString]) -> ExitCode {
    logging::to_stderr();
    walls::keep_memory_private();
    let done = help_mount(typed.get(1..).unwrap_or_default());
    if let Err(failure) = &done {
        failure.print();
    }
    helper::exit_code(done.map_or_else(|failure| failure.exit, |()| Exit::Ok)).into()
}

fn help_mount(words: &[OsString]) -> Result<(), Failure> {
    let mut command = program();
    command.build();
    let verb = command.find_subcommand("mount").expect("it is one of ours");
    let (call, is_verbose) = helper::read(verb, words)?;
    if is_verbose {
        tell!("mount.kmsfs: {call}");
    }
    let (line, is_real) = match call {
        helper::Call::Help => {
            say!("{}", helper::USAGE);
            return Ok(());
        }
        helper::Call::Remount { at, words, rest } => return remount::run(&at, &words, rest),
        helper::Call::Mount(line) => (line, true),
        helper::Call::Pretend(line) => (line, false),
    };
    match read(&line)?.verb {
        Verb::Mount(args) if is_real => match again::mount(&args)? {
            again::Before::Mounted => Ok(()),
            again::Before::Not => mount::run(&args, &line),
        },
        Verb::Mount(args) => mount::rehearse(&args),
        _ => unreachable!("the line's second word is mount"),
    }
}

fn end(failure: &Failure) -> ExitCode {
    failure.print();
    failure.exit.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `kmsfs key disable KEY --keystore DIR` was a usage error: the option was taken before the
    /// verb alone.
    #[test]
    fn the_options_of_a_family_are_accepted_anywhere() {
        let command = Cli::command();
        let mut families = 0;
        for family in command.get_subcommands().filter(|verb| verb.has_subcommands()) {
            families += 1;
            for option in family.get_arguments() {
                let name = option.get_id();
                assert!(option.is_global_set(), "{} {name}", family.get_name());
            }
        }
        assert!(families >= 3, "{families}");
        command.debug_assert();
    }
}
