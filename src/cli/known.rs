//! The volumes that this user has mounted before, as ssh knows hosts.
//!
//! Whoever can write a store could replace all of it with a volume of their own. A fingerprint
//! of the volume key, remembered outside the store, shows that.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::daemon::Unknown;
use crate::xdg;

fn folder() -> PathBuf {
    let state = xdg::folder_or("XDG_STATE_HOME", ".local/state");
    state.unwrap_or_else(|| PathBuf::from("/var/lib")).join("kmsfs/volumes")
}

/// Compares the fingerprint of a volume with the one remembered; the first is remembered.
///
/// # Errors
/// Where the two differ, or the state folder cannot be used.
pub(super) fn check(volume: &str, fingerprint: &str) -> Result<(), Unknown> {
    let path = folder().join(volume);
    match fs::read_to_string(&path) {
        Ok(known) if known.trim_end() == fingerprint => Ok(()),
        Ok(_) => Err(Unknown {
            why: format!(
                "volume {volume}: its volume key is not the one that was mounted before; \
                 somebody may have replaced the store"
            ),
            hint: format!("if that was you, forget the old one: rm {}", path.display()),
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            remember(&path, fingerprint).map_err(|e| unusable(&path, &e))
        }
        Err(e) => Err(unusable(&path, &e)),
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

fn remember(path: &Path, fingerprint: &str) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder())?;
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{fingerprint}")?;
    file.sync_all()
}
