//! What a volume was seen to hold, and what it may hold after a power cut.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use kmsfs::fs::Errno;

use crate::simulated::Tree;

/// Every state that was seen, and from which of them each inode may be.
#[derive(Clone, Debug, Default)]
pub struct History {
    seen: Vec<Tree>,
    since: BTreeMap<u64, usize>,
    /// An operation failed: what it made and took back was not seen.
    failed: bool,
    /// Names that a failed link gave to what was there, and took back: directory, name, inode.
    taken_back: BTreeSet<(u64, OsString, u64)>,
}

impl History {
    /// Begins with a state that is durable, all of it.
    pub fn new(tree: Tree) -> Self {
        Self { seen: vec![tree], ..Self::default() }
    }

    pub fn add(&mut self, tree: Tree) {
        self.seen.push(tree);
    }

    pub fn now(&self) -> &Tree {
        self.seen.last().expect("it begins with one")
    }

    /// An operation failed on its way.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// A link failed on its way: its name may have been there for a moment.
    pub fn link_failed(&mut self, from: &str, to: &str) {
        let (folder, name) = to.rsplit_once('/').unwrap_or(("", to));
        if let (Some(folder), Some(ino)) = (self.now().find(folder), self.now().find(from)) {
            self.taken_back.insert((folder, name.into(), ino));
        }
    }

    /// An inode, as it is now, was made durable.
    pub fn synced(&mut self, ino: u64) {
        self.since.insert(ino, self.seen.len() - 1);
    }

    /// Everything was.
    pub fn synced_all(&mut self) {
        *self = Self::new(self.now().clone());
    }

    fn of(&self, ino: u64) -> &[Tree] {
        &self.seen[self.since.get(&ino).copied().unwrap_or(0)..]
    }

    /// Whether a power cut may leave this; an error says why not.
    pub fn check(&self, left: &Tree) -> Result<(), String> {
        for (ino, names) in &left.dirs {
            // An operation leaves a directory's names before or after it, nothing between.
            let mut names = names.clone();
            if self.failed {
                names.retain(|_, ino| self.was_seen(*ino) || !is_empty(left, *ino));
            }
            let known = self.was_seen(*ino) || (self.failed && names.is_empty());
            let states = || self.of(*ino).iter().filter_map(|tree| tree.dirs.get(ino));
            let mut without = names.clone();
            without.retain(|name, at| !self.taken_back.contains(&(*ino, name.clone(), *at)));
            let before_or_after = || states().any(|state| *state == names || *state == without);
            if !known || (self.was_seen(*ino) && !before_or_after()) {
                let all: BTreeSet<_> = states().collect();
                return Err(format!(
                    "directory {ino} holds {names:?}, never since its sync: {all:?}"
                ));
            }
        }
        for (ino, content) in &left.files {
            self.check_file(*ino, content).map_err(|why| format!("file {ino}: {why}"))?;
        }
        for (ino, target) in &left.links {
            let seen = self.seen.iter().find_map(|tree| tree.links.get(ino));
            if seen.is_some_and(|seen| seen != target) || (seen.is_none() && !self.failed) {
                return Err(format!("link {ino} leads to {target:?}"));
            }
        }
        Ok(())
    }

    fn was_seen(&self, ino: u64) -> bool {
        self.seen.iter().any(|tree| {
            tree.dirs.contains_key(&ino)
                || tree.files.contains_key(&ino)
                || tree.links.contains_key(&ino)
        })
    }

    fn check_file(&self, ino: u64, content: &Result<Vec<u8>, Errno>) -> Result<(), String> {
        let states = self.of(ino).iter().filter_map(|tree| tree.files.get(&ino));
        let states: Vec<&Vec<u8>> = states.filter_map(|state| state.as_ref().ok()).collect();
        let Some(first) = states.first() else {
            let fine = self.failed && content.as_ref().is_ok_and(Vec::is_empty);
            return if fine { Ok(()) } else { Err("it was never seen".to_owned()) };
        };
        let content = match content {
            Ok(content) => content,
            // Its first page was not among those that reached the disk.
            Err(Errno(libc::EBADMSG)) if states.iter().any(|s| s.is_empty()) => {
                return if states.iter().all(|s| s.is_empty()) {
                    Err("an empty file is damaged".to_owned())
                } else {
                    Ok(())
                };
            }
            Err(e) => return Err(format!("unreadable: {e:?}")),
        };
        if states.iter().all(|state| state == first) {
            let grown = |c: &Vec<u8>| {
                let rest = c.strip_prefix(&first[..]);
                rest.is_some_and(|zeros| zeros.iter().all(|b| *b == 0))
            };
            if self.failed && grown(content) {
                return Ok(()); // It was made longer for a write that then failed.
            }
            return if content == *first {
                Ok(())
            } else {
                Err("synced bytes are lost".to_owned())
            };
        }
        let sizes = || states.iter().map(|s| s.len());
        let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
        // A write that failed may have made the file longer for a moment: by zeros, see below.
        if content.len() < least || (content.len() > most && !self.failed) {
            return Err(format!("it has {} bytes", content.len()));
        }
        for (i, byte) in content.iter().enumerate() {
            if *byte != 0 && !states.iter().any(|s| s.get(i) == Some(byte)) {
                return Err(format!("byte {i} is {byte}, never there since the sync"));
            }
        }
        Ok(())
    }
}

fn is_empty(tree: &Tree, ino: u64) -> bool {
    tree.dirs.get(&ino).is_some_and(BTreeMap::is_empty)
        || tree.files.get(&ino).is_some_and(|c| c.as_ref().is_ok_and(Vec::is_empty))
        || tree.links.contains_key(&ino)
}
