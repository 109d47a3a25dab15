//! The file: where it lies, who may have written it, and what it names.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::wrong;
use crate::console::failure::Failure;
use crate::xdg;

/// The system's file, and root's only one: what a user's file names would run as root.
const SYSTEM: &str = "/etc/kmsfs.toml";

/// The table of the volumes' own tables.
const VOLUMES: &str = "volume";

/// A file that was read.
pub(super) struct File {
    pub(super) path: PathBuf,
    table: Table,
}

/// What a volume's table says of the volume itself. The rest of the table are options.
pub(super) struct Volume<'a> {
    pub(super) name: &'a str,
    pub(super) store: PathBuf,
    pub(super) mountpoint: Option<PathBuf>,
    pub(super) table: &'a Table,
}

/// What a volume's table names beside options.
pub(super) const PLACES: [&str; 2] = ["store", "mountpoint"];

impl File {
    /// Reads the file that a command line means, if there is one.
    ///
    /// # Errors
    /// A file that cannot be read, that others may write, or that is not TOML.
    pub(super) fn of(typed: &[OsString]) -> Result<Option<Self>, Failure> {
        find(typed).map(Self::read).transpose()
    }

    fn read(path: PathBuf) -> Result<Self, Failure> {
        let text = text_of(&path)?;
        let table = text.parse().map_err(|e| wrong(&path, &format!("not TOML: {e}")))?;
        Ok(Self { path, table })
    }

    /// The lines for every verb.
    pub(super) fn general(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.table.iter().filter(|(_, value)| !value.is_table())
    }

    /// The tables, but for those of volumes.
    pub(super) fn verbs(&self) -> impl Iterator<Item = (&String, &Table)> {
        let tables = self.table.iter().filter(|(name, _)| *name != VOLUMES);
        tables.filter_map(|(name, value)| Some((name, value.as_table()?)))
    }

    /// The table of a verb.
    pub(super) fn verb(&self, name: &str) -> Option<&Table> {
        self.verbs().find(|(verb, _)| *verb == name).map(|(_, table)| table)
    }

    /// Each volume, or what is wrong with its table.
    pub(super) fn volumes(&self) -> impl Iterator<Item = Result<Volume<'_>, String>> {
        let tables = self.table.get(VOLUMES).and_then(Value::as_table);
        tables.into_iter().flatten().map(|(name, value)| volume(name, value))
    }
}

fn volume<'a>(name: &'a str, value: &'a Value) -> Result<Volume<'a>, String> {
    let shown = format!("[{VOLUMES}.{name}]");
    if name.contains('/') || name.starts_with('-') || name.is_empty() {
        return Err(format!("{shown} is no name: it is empty, begins with '-' or has a '/'"));
    }
    let table = value.as_table().ok_or_else(|| format!("{shown} is a table"))?;
    let place = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::String(path)) if path.starts_with('/') => Ok(Some(PathBuf::from(path))),
        Some(_) => Err(format!("{shown}: {key} is a path from /")),
    };
    let [store, mountpoint] = PLACES.map(place);
    let store = store?.ok_or_else(|| format!("{shown} names no store"))?;
    Ok(Volume { name, store, mountpoint: mountpoint?, table })
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
fn text_of(path: &Path) -> Result<String, Failure> {
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
