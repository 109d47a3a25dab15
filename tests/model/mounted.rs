//! Scripts on a real mount.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::Target;
use crate::reference::{Op, name};
use crate::support::Mount;

/// A directory of its own in a mount.
pub struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    pub fn new(mount: &Mount<'_>) -> Self {
        Self { folder: tempfile::tempdir_in(mount.root()).expect("a folder") }
    }

    fn at(&self, n: usize) -> PathBuf {
        self.folder.path().join(name(n))
    }

    fn open(&self, n: usize) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.at(n))
    }

    fn try_run(&self, op: &Op) -> io::Result<Vec<u8>> {
        match *op {
            Op::Create(n) => drop(File::create_new(self.at(n))?),
            Op::Write(n, at, len, value) => self.open(n)?.write_all_at(&vec![value; len], at)?,
            Op::Read(n, at, len) => {
                let (file, mut buf) = (self.open(n)?, vec![0; len]);
                let mut got = 0;
                while got < len {
                    match file.read_at(&mut buf[got..], at + got as u64)? {
                        0 => break,
                        more => got += more,
                    }
                }
                buf.truncate(got);
                return Ok(buf);
            }
            Op::Truncate(n, size) => self.open(n)?.set_len(size)?,
            Op::Punch(n, at, len) => {
                let how =
                    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(self.open(n)?, how, at, len)?;
            }
            Op::Sync(n) => self.open(n)?.sync_all()?,
            Op::Rename(a, b) => fs::rename(self.at(a), self.at(b))?,
            Op::Link(a, b) => fs::hard_link(self.at(a), self.at(b))?,
            Op::Unlink(n) => fs::remove_file(self.at(n))?,
            Op::Size(n) => {
                return Ok((fs::metadata(self.at(n))?.len() as usize).to_le_bytes().to_vec());
            }
        }
        Ok(Vec::new())
    }
}

impl Target for Mounted {
    fn run(&mut self, op: &Op) -> Result<Vec<u8>, i32> {
        self.try_run(op).map_err(|e| e.raw_os_error().unwrap_or(-1))
    }

    fn forget(&mut self) {
        // The page cache of each file is dropped, so that content comes from the store.
        for n in 0..crate::reference::NAMES {
            if let Ok(file) = self.open(n) {
                let _ = file.sync_all();
                let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            }
        }
    }
}
