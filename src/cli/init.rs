//! `kmsfs init`.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::master::{Master, MasterArgs};
use super::recipients;
use crate::console::failure::{Exit, Failure};
use crate::console::printing::{say, tell};
use crate::disk;
use crate::ids::VolumeId;
use crate::keys::{self, OpenError};
use crate::kms::cost;
use crate::store::{self, DataKeys, Names, Provider, Settings, Store, StoreError};

/// The heartbeat of a mount that is told none.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NamesArg {
    Encrypted,
    Plain,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DataKeysArg {
    PerFile,
    Branch,
}

/// Arguments of `init`.
#[derive(Args)]
pub struct Init {
    /// The store: absent, or an empty folder
    store: PathBuf,
    #[command(flatten)]
    master: MasterArgs,
    /// Whether file names are encrypted
    #[arg(long, value_enum, default_value_t = NamesArg::Encrypted)]
    names: NamesArg,
    /// What wraps data keys: the KMS itself, one call for each file, or branch keys, which the KMS
    /// wraps
    #[arg(long, value_enum, default_value_t = DataKeysArg::PerFile)]
    data_keys: DataKeysArg,
    /// Have every mount refuse files under any other master key than the one that new data keys
    /// come under: when an alias is pointed to another key, until a rewrap
    #[arg(long)]
    only_current_key: bool,
    /// Seal every key to this age recipient, too, or to those in this file, one a line: whoever has
    /// an identity of one can read the store without the KMS (`kmsfs recover`), for good. It can be
    /// given several times, and not be changed later
    #[arg(long, value_name = "FILE|age1…")]
    recovery: Vec<String>,
}

/// Runs `init`.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Init) -> Result<(), Failure> {
    check_empty(&args.store)?;
    let recovery = recipients::read(&args.recovery)?;
    let Master { kms, provider, asked } = args.master.open()?;
    let made = make_folder(&args.store)?;
    let volume = VolumeId::random();
    let names = match args.names {
        NamesArg::Encrypted => Names::Encrypted,
        NamesArg::Plain => Names::Plain,
    };
    let data_keys = match args.data_keys {
        DataKeysArg::PerFile => DataKeys::PerFile,
        DataKeysArg::Branch => DataKeys::Branch,
    };
    let mut settings = Settings::new(volume, names, data_keys);
    settings.only_current_key = args.only_current_key;
    settings.recovery = recovery.clone();
    let root = disk::open_dir(&args.store).map_err(|e| Failure::io(&args.store, &e))?;
    let work = &*kms.services.work;
    if let Err(failure) = try_filesystem(&args.store, &root, names) {
        if made == StoreFolder::New {
            let _ = fs::remove_dir(&args.store);
        }
        return Err(failure);
    }
    let done = Store::init(root)
        .map_err(OpenError::Store)
        .and_then(|store| keys::create(&store, work, provider.clone(), asked.clone(), settings));
    if let Err(e) = done {
        take_back(&args.store, made, &e);
        return Err(Failure::open(&args.store, &e));
    }
    say!("store {}", args.store.display());
    say!("volume {volume}");
    say!("master key {asked}");
    match provider {
        Provider::Local { keystore } => say!("keystore {keystore}"),
        Provider::Aws { region } => {
            say!("region {region}");
            say!("cost {}, at the default heartbeat", cost::monthly(DEFAULT_HEARTBEAT));
        }
        at @ Provider::Vault { .. } => say!("transit {}", at.place()),
        Provider::Pkcs11 { token } => say!("token {token}"),
    }
    if let Some(recovery) = recovery {
        recovery.texts().for_each(|text| say!("recovery {text}"));
        tell!(
            "kmsfs: whoever has an identity of a recovery recipient reads this store for good, \
             whatever the KMS says: disabling the master key does not stop them"
        );
    }
    tell!("next: kmsfs mount {} MOUNTPOINT", args.store.display());
    Ok(())
}

/// Tries out what a store needs of its filesystem, and says what is missing.
fn try_filesystem(path: &Path, folder: &disk::Dir, names: Names) -> Result<(), Failure> {
    let lacks = store::lacks(folder, names).map_err(|e| Failure::io(path, &e))?;
    let list = |needed: bool| {
        let listed = lacks.iter().filter(|lack| lack.is_needed(names) == needed);
        listed.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (needed, others, shown) = (list(true), list(false), path.display());
    if !needed.is_empty() {
        let why = format!("{shown}: a store needs what its filesystem does not have: {needed}");
        return Err(Failure::new(Exit::Failed, why)
            .hint("choose a folder on another one, ext4, XFS, btrfs or tmpfs: kmsfs init OTHER"));
    }
    if !others.is_empty() {
        tell!("kmsfs: {shown}: its filesystem, and so each mount, does not have: {others}");
    }
    Ok(())
}

fn check_empty(store: &Path) -> Result<(), Failure> {
    match fs::read_dir(store).map(Iterator::count) {
        Ok(1..) => Err(Failure::new(
            Exit::Failed,
            format!("{}: the folder is not empty, nothing was changed", store.display()),
        )
        .hint("choose a new folder for the store: kmsfs init OTHER")),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Failure::io(store, &e)),
    }
}

#[derive(PartialEq, Eq)]
enum StoreFolder {
    New,
    Old,
}

fn make_folder(store: &Path) -> Result<StoreFolder, Failure> {
    match fs::DirBuilder::new().mode(0o700).create(store) {
        Ok(()) => Ok(StoreFolder::New),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(StoreFolder::Old),
        Err(e) => Err(Failure::io(store, &e)),
    }
}

/// Removes what this run made of a store, so that it can be tried again.
fn take_back(store: &Path, made: StoreFolder, e: &OpenError) {
    // Best effort by its nature.
    let _ = match (made, e) {
        (StoreFolder::New, _) => fs::remove_dir_all(store),
        // Somebody else was at it.
        (StoreFolder::Old, OpenError::Store(StoreError::NotEmpty)) => Ok(()),
        (StoreFolder::Old, _) => remove_layout(store),
    };
}

fn remove_layout(store: &Path) -> io::Result<()> {
    for entry in fs::read_dir(store)? {
        let entry = entry?;
        if !store::Folder::Top.expects(&entry.file_name()) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}
