//! What is seen of a tree: everything that a program can tell, but for times.

use std::collections::BTreeMap;
use std::fmt;

/// Bytes that show themselves in runs.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes:", self.0.len())?;
        for run in self.0.chunk_by(|a, b| a == b) {
            write!(f, " {}x{:02x}", run.len(), run[0])?;
        }
        Ok(())
    }
}

/// The kinds of inodes that scripts make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Dir,
    Symlink,
}

/// What stat(2) says. Filesystems differ in the size and the links of a folder: both are 0 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub kind: Kind,
    pub mode: u32,
    pub links: u64,
    pub size: u64,
}

/// What an operation that succeeds answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Bytes(Bytes),
    /// Sorted.
    Names(Vec<String>),
    Stat(Stat),
}

/// An entry, and all of its inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub stat: Stat,
    pub xattrs: BTreeMap<String, Bytes>,
    /// A file's content, a link's target.
    pub content: Bytes,
    /// The first path of the same inode.
    pub first: String,
}

/// Every entry by its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub entries: BTreeMap<String, Seen>,
    firsts: BTreeMap<u64, String>,
}

impl Tree {
    /// Adds an entry; folders before what is in them, names in their order.
    pub fn add(
        &mut self,
        path: &str,
        ino: u64,
        stat: Stat,
        xattrs: BTreeMap<String, Bytes>,
        content: Vec<u8>,
    ) {
        let first = self.firsts.entry(ino).or_insert_with(|| path.to_owned()).clone();
        let seen = Seen { stat, xattrs, content: Bytes(content), first };
        self.entries.insert(path.to_owned(), seen);
    }

    /// What differs from the tree as it should be, one a line.
    pub fn against(&self, wanted: &Self) -> Result<(), String> {
        let paths = self.entries.keys().chain(wanted.entries.keys());
        let mut differing: Vec<&String> =
            paths.filter(|p| self.entries.get(*p) != wanted.entries.get(*p)).collect();
        differing.dedup();
        if differing.is_empty() {
            return Ok(());
        }
        let line = |p: &&String| {
            let (got, wanted) = (self.entries.get(*p), wanted.entries.get(*p));
            format!("{p:.40}:\n  is        {got:?}\n  should be {wanted:?}")
        };
        Err(differing.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}
