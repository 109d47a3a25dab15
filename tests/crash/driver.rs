//! The record layer on one file of a simulated disk, used as the filesystem uses it.

use std::ffi::OsStr;
use std::sync::LazyLock;

use kmsfs::content::ContentCipher;
use kmsfs::disk::device::Writeback;
use kmsfs::disk::sim::Sim;
use kmsfs::disk::{File, Open};
use kmsfs::fs::records::{self, Records, Tail};
use kmsfs::fs::{Outcome, Piece};
use kmsfs::ids::{FileId, VolumeId};
use kmsfs::secret::Key;

use crate::EDGES;
use crate::model::Op;

static CIPHER: LazyLock<ContentCipher> = LazyLock::new(|| {
    ContentCipher::new(&Key::build(|k| k.fill(1)), VolumeId([2; 16]), FileId([3; 16]))
});

const NAME: &str = "f";

pub struct Driver {
    pub sim: Sim,
    file: File,
    keyed: bool,
    tail: Tail,
}

fn open(sim: &Sim) -> File {
    sim.root().open(OsStr::new(NAME), Open::ReadWrite).expect("the file's entry is durable")
}

fn records(file: &File, keyed: bool) -> Records<'_> {
    let cipher = keyed.then_some(&*CIPHER);
    Records { file: &**file, cipher, writeback: Writeback::WaitFirst }
}

impl Driver {
    /// On an empty file.
    pub fn new() -> Self {
        let sim = Sim::new();
        sim.root().open(OsStr::new(NAME), Open::Create(0o600)).expect("new");
        sim.root().sync_filesystem().expect("synced");
        let file = open(&sim);
        Self { sim, file, keyed: false, tail: Tail::Unknown }
    }

    /// After a power cut, on what it left.
    pub fn after_crash(sim: Sim) -> Outcome<Self> {
        let file = open(&sim);
        let keyed = records::file_id(&*file)?.is_some();
        Ok(Self { sim, file, keyed, tail: Tail::Unknown })
    }

    pub fn fork(&self) -> Self {
        let sim = self.sim.fork();
        let file = open(&sim);
        Self { sim, file, keyed: self.keyed, tail: self.tail }
    }

    pub fn is_keyed(&self) -> bool {
        self.keyed
    }

    pub fn size(&self) -> Outcome<u64> {
        records(&self.file, self.keyed).size()
    }

    pub fn read(&self) -> Outcome<Vec<u8>> {
        let records = records(&self.file, self.keyed);
        let mut out = vec![0xff; usize::try_from(records.size()?).expect("small")];
        let n = records.read(0, &mut out, &mut Vec::new())?;
        assert_eq!(n, out.len(), "all of it is read");
        Ok(out)
    }

    pub fn run(&mut self, op: Op, value: u8) -> Outcome<()> {
        match op {
            Op::Sync => Ok(self.file.sync_data()?),
            Op::Truncate(to) => records(&self.file, self.keyed).set_size(&mut self.tail, EDGES[to]),
            Op::Write(from, to) => {
                self.take_key()?;
                let len = usize::try_from(EDGES[to] - EDGES[from]).expect("small");
                let data = vec![value; len];
                let records = records(&self.file, true);
                records.write(&mut self.tail, EDGES[from], &data, &mut Vec::new())
            }
            Op::Punch(from, to) => {
                self.take_key()?;
                let (mut at, end) = (EDGES[from], EDGES[to]);
                records(&self.file, true).punch(&mut self.tail, &mut at, end, &Piece::all())
            }
        }
    }

    fn take_key(&mut self) -> Outcome<()> {
        if !self.keyed {
            records(&self.file, false).check_blank(&mut 0, &Piece::all())?;
            records(&self.file, true).give_key()?;
            self.keyed = true;
        }
        Ok(())
    }
}
