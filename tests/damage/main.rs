//! Damage to a store, byte by byte: what a reader sees then is the errno of the design, or what
//! the format says of holes and sizes, and never wrong data.
//!
//! Through the filesystem layer on a simulated disk; tests/mount/damage.rs takes samples of it on
//! real mounts.

#[path = "../support/simulated.rs"]
mod simulated;

mod attributes;
mod branch;
mod content;
mod fsck;
mod sidecar;
mod volume_file;

use std::ffi::{OsStr, OsString};

use kmsfs::disk::sim::Sim;
use kmsfs::disk::{self, Dir, Open};
use kmsfs::ids::FileId;

use simulated::Volume;

/// Files of one sidecar page, and their sizes: one record, several, several.
const FILES: [(&str, usize); 3] = [("one", 700), ("f", 9000), ("g", 9000)];

/// What a file holds: no zeros, and no two records alike.
fn text(name: &str) -> Vec<u8> {
    let (_, len) = FILES.iter().find(|(n, _)| *n == name).expect("a file of the test");
    let salt = name.as_bytes()[0];
    (0..*len).map(|i| 1 + ((i * 7 + i / 251 + usize::from(salt)) % 251) as u8).collect()
}

/// A volume with the files, all of it durable, and the disk beneath it.
struct Damaged {
    volume: Volume,
    root: Dir,
}

impl Damaged {
    fn new() -> Self {
        Self::with_files(Volume::new())
    }

    fn with_files(volume: Volume) -> Self {
        for (name, _) in FILES {
            volume.create(name).expect("made");
            volume.write(name, 0, &text(name)).expect("written");
        }
        Self::over(volume.unmount())
    }

    fn over(sim: Sim) -> Self {
        let root = simulated::tree(&sim);
        Self { volume: Volume::mount(sim).expect("a volume"), root }
    }

    /// The name on disk.
    fn entry(&self, name: &str) -> OsString {
        let ino = self.volume.at(name, Ok).expect("there");
        let mut found = None;
        self.root
            .list(0, &mut |e| {
                found = found.take().or((e.ino == ino).then_some(e.name));
                true
            })
            .expect("listed");
        found.expect("every file lies in the root")
    }

    fn file(&self, name: &str) -> Raw {
        Raw { dir: self.root.clone(), name: self.entry(name) }
    }

    fn id(&self, name: &str) -> FileId {
        FileId(self.file(name).bytes()[8..24].try_into().expect("sixteen bytes"))
    }

    /// Reads a file with nothing cached of it.
    fn read(&self, name: &str, id: FileId) -> Result<Vec<u8>, i32> {
        self.volume.fs().keyring().evict(id);
        self.volume.read(name).map_err(|e| e.0)
    }
}

/// A file of the store, in the tree or beside it.
struct Raw {
    dir: Dir,
    name: OsString,
}

impl Raw {
    fn in_store(root: &Dir, path: &[&str]) -> Self {
        let (name, folders) = path.split_last().expect("a path");
        let open = |dir: Dir, name: &&str| dir.open_dir(OsStr::new(name)).expect("there");
        let dir = folders.iter().fold(root.clone(), open);
        Self { dir, name: OsString::from(name) }
    }

    fn bytes(&self) -> Vec<u8> {
        disk::read_all(&*self.dir, &self.name, 1 << 20).expect("readable")
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        let file = self.dir.open(&self.name, Open::ReadWrite).expect("opened");
        file.write_at(bytes, at as u64).expect("written");
    }

    /// To change its attributes.
    fn pin(&self) -> disk::File {
        self.dir.open(&self.name, Open::Pin).expect("there")
    }

    fn set_size(&self, size: u64) {
        let file = self.dir.open(&self.name, Open::ReadWrite).expect("opened");
        file.set_size(size).expect("cut");
    }

    fn set(&self, bytes: &[u8]) {
        self.set_size(0);
        self.put(0, bytes);
    }

    /// Flips one bit of each byte in turn, each bit coming up as often; the byte is as it was
    /// after `see`.
    fn flip_each(&self, mut see: impl FnMut(usize)) {
        for (i, byte) in self.bytes().into_iter().enumerate() {
            self.put(i, &[byte ^ 1 << (i % 8)]);
            see(i);
            self.put(i, &[byte]);
        }
    }
}
