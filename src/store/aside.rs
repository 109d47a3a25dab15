//! What is not of the store, moved out of the way: nothing reads it there, and nothing is lost.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use super::layout::{ASIDE, Store};
use crate::disk::{Dir, Replace};

/// So many of one name may lie beside each other.
const MOST: u32 = 10_000;

impl Store {
    /// Moves an entry of the store into the folder `aside`, under the path that it had; where there
    /// is one already, with a number behind it.
    ///
    /// # Errors
    /// EINVAL for a path that leads out of the store or to what makes a store; of the backing
    /// filesystem.
    pub fn set_aside(&self, path: &Path) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let parts: Vec<&OsStr> = path
            .components()
            .map(|part| match part {
                Component::Normal(name) => Ok(name),
                _ => Err(invalid()),
            })
            .collect::<io::Result<_>>()?;
        let (name, folders) = parts.split_last().ok_or_else(invalid)?;
        let mut from = self.top.clone();
        let mut to = entered(&self.top, OsStr::new(ASIDE))?;
        for folder in folders {
            from = from.open_dir(folder)?;
            to = entered(&to, folder)?;
        }
        for n in 0..MOST {
            let mut new = OsString::from(name);
            if n > 0 {
                new.push(format!(".{n}"));
            }
            match from.rename(name, &*to, &new, Replace::Never) {
                Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
                moved => return moved.and_then(|()| to.sync()).and_then(|()| from.sync()),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EEXIST))
    }
}

/// A folder, made where it is not there.
fn entered(within: &Dir, name: &OsStr) -> io::Result<Dir> {
    match within.mkdir(name, 0o700) {
        // On the disk before anything is moved into it.
        Ok(()) => within.sync()?,
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(e),
    }
    within.open_dir(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;
    use crate::disk::{self, Open};

    #[test]
    fn what_is_moved_aside_is_found_under_its_path_and_replaces_nothing() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let tree = store.tree().clone();
        for n in 0..3 {
            let file = tree.open(OsStr::new("x"), Open::Create(0o600)).expect("made");
            file.write_at(&[b'0' + n], 0).expect("written");
            store.set_aside(Path::new("files/x")).expect("moved");
        }
        tree.mkdir(OsStr::new("d"), 0o755).expect("made");
        store.set_aside(Path::new("files/d")).expect("a folder too");
        let aside = sim.root().open_dir(OsStr::new("aside")).expect("there");
        let files = aside.open_dir(OsStr::new("files")).expect("there");
        let mut names = disk::names(&*files).expect("listed");
        names.sort();
        assert_eq!(names, ["d", "x", "x.1", "x.2"]);
        assert_eq!(disk::read_all(&*files, OsStr::new("x.1"), 9).expect("read"), b"1");
        assert_eq!(disk::names(&*tree).expect("listed"), [""; 0]);
        for bad in ["", "/", "..", "files/../x", "/files/x"] {
            assert!(store.set_aside(Path::new(bad)).is_err(), "{bad}");
        }
        assert!(store.set_aside(Path::new("files/none")).is_err());
    }
}
