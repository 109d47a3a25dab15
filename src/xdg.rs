//! The base folders of a user (XDG Base Directory Specification).

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

/// The folder that a variable such as `XDG_RUNTIME_DIR` names. Unset, empty and relative ones name
/// none, as the specification says: a relative one would be another folder for each caller. Nor
/// does another user's: see `is_ours`.
pub fn folder(variable: &str) -> Option<PathBuf> {
    absolute(std::env::var_os(variable)).filter(|path| is_ours(path))
}

/// That folder, else this one below the user's home; `None` where that is not known either.
pub fn folder_or(variable: &str, below_home: &str) -> Option<PathBuf> {
    let var = |name: &str| absolute(std::env::var_os(name)).filter(|path| is_ours(path));
    choose(|name| var(name).map(PathBuf::into_os_string), variable, below_home)
}

/// Whether a folder, or the nearest one above it that is there, is this user's or root's. Under
/// sudo(8) and su(1) `HOME` may still be that of who called: he could have root follow his links.
fn is_ours(path: &Path) -> bool {
    let there = path.ancestors().find_map(|path| fs::metadata(path).ok());
    there.is_some_and(|meta| meta.uid() == 0 || meta.uid() == geteuid().as_raw())
}

fn choose(
    var: impl Fn(&str) -> Option<OsString>,
    variable: &str,
    below_home: &str,
) -> Option<PathBuf> {
    absolute(var(variable)).or_else(|| Some(absolute(var("HOME"))?.join(below_home)))
}

fn absolute(value: Option<OsString>) -> Option<PathBuf> {
    value.map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absolute_path_names_a_folder() {
        let with = |vars: &[(&str, &str)]| {
            let var = |name: &str| vars.iter().find(|v| v.0 == name).map(|v| v.1.into());
            choose(var, "XDG_STATE_HOME", ".local/state")
        };
        let home = Some(PathBuf::from("/h/.local/state"));
        assert_eq!(with(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), Some("/x".into()));
        assert_eq!(with(&[("HOME", "/h")]), home);
        for none in ["", "x", "./x"] {
            assert_eq!(with(&[("XDG_STATE_HOME", none), ("HOME", "/h")]), home);
            assert_eq!(with(&[("XDG_STATE_HOME", none), ("HOME", none)]), None);
        }
    }
}
