//! Scripts on the filesystem layer, in this process, without FUSE.

use std::cell::RefCell;
use std::ffi::OsString;
use std::sync::Arc;

use kmsfs::fs::{Access, Caller, Change, Errno, OpenFor, ROOT, Reach, RenameHow, SyncWhat};
use kmsfs::ids::VolumeId;
use kmsfs::keys;
use kmsfs::kms::local::{LocalKms, Sealing};
use kmsfs::kms::{KeyAdmin, KeyRef};
use kmsfs::store::{DataKeys, Names, Provider, Settings, Store};
use kmsfs::upkeep::Offline;

use crate::Target;
use crate::reference::{Op, name};

/// A store on a keystore of its own, opened without a mount.
pub struct Layer {
    folder: tempfile::TempDir,
    volume: Option<Offline>,
}

const WHO: Caller = Caller { uid: 0, gid: 0, umask: 0o022 };

impl Layer {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let kms = LocalKms::create(&folder.path().join("keystore"), &Sealing::Clear).expect("made");
        let key = kms.create("").expect("made");
        let at = folder.path().join("store");
        std::fs::create_dir(&at).expect("made");
        let store = Store::init(kmsfs::disk::open_dir(&at).expect("there")).expect("made");
        let settings = Settings::new(VolumeId::random(), Names::Encrypted, DataKeys::PerFile);
        let provider = Provider::Local { keystore: "unused".to_owned() };
        keys::create(&store, &kms, provider, KeyRef(key.id), settings).expect("made");
        let mut layer = Self { folder, volume: None };
        layer.forget();
        layer
    }

    fn volume(&self) -> &Offline {
        self.volume.as_ref().expect("opened by new and forget")
    }

    /// Looks a name up, acts on its inode, and forgets the lookup.
    fn on<T>(&self, n: usize, act: impl Fn(u64) -> Result<T, Errno>) -> Result<T, Errno> {
        let name = OsString::from(name(n));
        let ino = self.volume().run(|fs| fs.lookup(ROOT, &name))?.0.ino;
        let done = act(ino);
        self.volume().fs().forget(ino, 1);
        done
    }

    fn opened<T>(&self, n: usize, act: impl Fn(u64) -> Result<T, Errno>) -> Result<T, Errno> {
        self.on(n, |ino| {
            self.volume().run(|fs| fs.open(ino, OpenFor::Writing))?;
            let done = act(ino);
            self.volume().run(|fs| fs.release(ino, OpenFor::Writing))?;
            done
        })
    }

    fn try_run(&self, op: &Op) -> Result<Vec<u8>, Errno> {
        let v = self.volume();
        match *op {
            Op::Create(n) => {
                let name = OsString::from(name(n));
                let ino = v.run(|fs| fs.create(ROOT, &name, 0o644, WHO))?.0.ino;
                v.run(|fs| fs.release(ino, OpenFor::Writing))?;
                v.fs().forget(ino, 1);
            }
            Op::Write(n, at, len, value) => {
                let data = vec![value; len];
                self.opened(n, |ino| v.run(|fs| fs.write(ino, at, &data)))?;
            }
            Op::Read(n, at, len) => {
                let buf = RefCell::new(vec![0; len]);
                let got =
                    self.opened(n, |ino| v.run(|fs| fs.read(ino, at, &mut buf.borrow_mut())))?;
                let mut buf = buf.into_inner();
                buf.truncate(got);
                return Ok(buf);
            }
            Op::Truncate(n, size) => {
                let change = Change { size: Some(size), ..Change::default() };
                self.on(n, |ino| v.run(|fs| fs.setattr(ino, &change)))?;
            }
            Op::Punch(n, at, len) => {
                let end = at + len;
                self.opened(n, |ino| {
                    let mut from = at;
                    v.run(|fs| fs.zero(ino, &mut from, end, Reach::KeepSize))
                })?;
            }
            Op::Sync(n) => self.opened(n, |ino| v.run(|fs| fs.fsync(ino, SyncWhat::All)))?,
            Op::Rename(a, b) => {
                let (a, b) = (OsString::from(name(a)), OsString::from(name(b)));
                v.run(|fs| fs.rename((ROOT, &a), (ROOT, &b), RenameHow::Over))?;
            }
            Op::Link(a, b) => {
                let to = OsString::from(name(b));
                self.on(a, |ino| {
                    v.run(|fs| fs.link(ino, ROOT, &to, WHO))?;
                    v.fs().forget(ino, 1);
                    Ok(())
                })?;
            }
            Op::Unlink(n) => {
                let name = OsString::from(name(n));
                v.run(|fs| fs.unlink(ROOT, &name))?;
            }
            Op::Size(n) => {
                let size = self.on(n, |ino| v.run(|fs| fs.getattr(ino)))?.0.size;
                return Ok((size as usize).to_le_bytes().to_vec());
            }
        }
        Ok(Vec::new())
    }
}

impl Target for Layer {
    fn run(&mut self, op: &Op) -> Result<Vec<u8>, i32> {
        self.try_run(op).map_err(|e| e.0)
    }

    fn forget(&mut self) {
        self.volume = None;
        let kms = LocalKms::open(&self.folder.path().join("keystore"), None).expect("opened");
        let at = self.folder.path().join("store");
        let volume = Offline::open(&at, Arc::new(kms), Access::ReadWrite).expect("opened");
        self.volume = Some(volume);
    }
}
