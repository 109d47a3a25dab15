//! Everything that a layer shows.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;

use kmsfs::fs::{Detail, NamesApart, OpenFor, Reached, Visit};

use super::{Layer, kind, stat};
use crate::tree::{Bytes, Kind, Tree};

impl Layer {
    pub(super) fn xattrs(&self, ino: u64) -> Result<Vec<String>, i32> {
        let mut known = NamesApart::default();
        let list = self.run(|fs| fs.listxattr(ino, &mut known))?;
        let list = String::from_utf8(list).expect("names of scripts");
        let mut names: Vec<String> = list.split_terminator('\0').map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    pub(super) fn walk(&self, dir: u64, at: &str, tree: &mut Tree) -> Result<(), i32> {
        for name in self.list(dir)? {
            let path = format!("{at}/{name}");
            let attr = self.run(|fs| fs.lookup(dir, OsStr::new(&name)))?.attr;
            let ino = attr.0.ino;
            let mut xattrs = BTreeMap::new();
            for name in self.xattrs(ino)? {
                let value = self.run(|fs| fs.getxattr(ino, OsStr::new(&name)))?;
                xattrs.insert(name, Bytes(value));
            }
            let content = match kind(attr) {
                Kind::Dir => Vec::new(),
                Kind::Symlink => self.run(|fs| fs.readlink(ino))?.into_vec(),
                Kind::File => {
                    self.run(|fs| fs.open(ino, OpenFor::Reading))?;
                    let size = usize::try_from(attr.0.size).expect("small");
                    let buf = RefCell::new(vec![0xaa; size + 1]);
                    let got = self.run(|fs| fs.read(ino, 0, &mut buf.borrow_mut()))?;
                    self.run(|fs| fs.release(ino, OpenFor::Reading))?;
                    buf.into_inner()[..got].to_vec()
                }
            };
            tree.add(&path, ino, stat(attr), xattrs, content);
            if kind(attr) == Kind::Dir {
                self.walk(ino, &path, tree)?;
            }
            self.volume().fs().forget(ino, 1);
        }
        Ok(())
    }

    fn list(&self, dir: u64) -> Result<BTreeSet<String>, i32> {
        let listing = self.run(|fs| fs.open_listing(dir, 0))?;
        let (mut names, mut from, mut reached) = (BTreeSet::new(), 0, Reached::More);
        while reached == Reached::More {
            reached = self.run(|fs| {
                fs.list(listing, &mut from, Detail::Names, &mut |entry| {
                    if entry.name != "." && entry.name != ".." {
                        names.insert(entry.name.to_string_lossy().into_owned());
                    }
                    Visit::Taken
                })
            })?;
        }
        self.volume().fs().close_listing(listing);
        Ok(names)
    }
}
