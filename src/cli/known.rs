//! The volumes that this user has mounted before, as ssh knows hosts.
//!
//! Whoever can write a store could replace all of it with a volume of their own, or put back what
//! `volume.json` was before a rewrap. A fingerprint of the volume key and the highest generation
//! that was seen, remembered outside the store, show that.

use std::cmp::Ordering;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::daemon::Unknown;
use crate::keys::Identity;
use crate::{disk, durable, xdg};

fn folder() -> PathBuf {
    let state = xdg::folder_or("XDG_STATE_HOME", ".local/state");
    state.unwrap_or_else(|| PathBuf::from("/var/lib")).join("kmsfs/volumes")
}

fn path_of(identity: &Identity) -> PathBuf {
    folder().join(identity.volume.to_string())
}

/// Compares a volume with what is remembered of it. The first is remembered, and so is a newer
/// generation.
///
/// # Errors
/// Where its key is another one, or its state an earlier one; where the folder cannot be used.
pub(super) fn check(identity: &Identity) -> Result<(), Unknown> {
    match compare(identity)? {
        Known::AsItIs => Ok(()),
        Known::NotYet => {
            let path = path_of(identity);
            remember(&path, identity).map_err(|e| unusable(&path, &e))
        }
    }
}

/// What is remembered of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Just this.
    AsItIs,
    /// Nothing, or an earlier generation.
    NotYet,
}

/// As [`check`], for who only reads: nothing is remembered.
///
/// # Errors
/// As [`check`].
pub(super) fn compare(identity: &Identity) -> Result<Known, Unknown> {
    let (path, volume) = (path_of(identity), identity.volume);
    let known = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Known::NotYet),
        Err(e) => return Err(unusable(&path, &e)),
    };
    let forget = |what: &str| format!("if that was you, forget {what}: rm {}", path.display());
    let (fingerprint, generation) = known.trim_end().split_once(' ').unwrap_or((&known, ""));
    if fingerprint != identity.fingerprint {
        return Err(Unknown {
            why: format!(
                "volume {volume}: its volume key is not the one that was mounted before; \
                 somebody may have replaced the store"
            ),
            hint: forget("the old one"),
        });
    }
    let generation: u64 = generation.parse().unwrap_or_default();
    match identity.generation.cmp(&generation) {
        Ordering::Equal => Ok(Known::AsItIs),
        Ordering::Greater => Ok(Known::NotYet),
        Ordering::Less => Err(Unknown {
            why: format!(
                "volume {volume}: its volume.json is of an earlier state (generation {}) than the \
                 one that was mounted before (generation {generation}); its master key may be one \
                 that a rewrap has left",
                identity.generation
            ),
            hint: forget("the later one"),
        }),
    }
}

fn unusable(path: &Path, e: &io::Error) -> Unknown {
    Unknown {
        why: format!(
            "the volume cannot be compared with what was mounted before: {}: {e}",
            path.display()
        ),
        hint: "name a folder that can be written: XDG_STATE_HOME=DIR kmsfs mount …".to_owned(),
    }
}

/// Written whole or not at all: a file that a power cut left empty would be a volume that is not
/// known, for good.
fn remember(path: &Path, identity: &Identity) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder())?;
    let line = format!("{} {}\n", identity.fingerprint, identity.generation);
    let (folder, name) = disk::open_parent(path)?;
    durable::replace(&*folder, &name, line.as_bytes(), 0o600)
}
