//! The record layer on one file of a simulated disk, used as the filesystem uses it.

use std::ffi::OsStr;
use std::sync::LazyLock;

use kmsfs::content::ContentCipher;
use kmsfs::disk::device::Writeback;
use kmsfs::disk::sim::Sim;
use kmsfs::disk::{File, Open};
use kmsfs::fs::records::{self, Records, Tail};
use kmsfs::fs::{Outcome, Piece, SizeFloor};
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
    floor: SizeFloor,
}

fn open(sim: &Sim) -> File {
    sim.root().open(OsStr::new(NAME), Open::ReadWrite).expect("the file's entry is durable")
}

impl Driver {
    /// On an empty file.
    pub fn new() -> Self {
        let sim = Sim::new();
        sim.root().open(OsStr::new(NAME), Open::Create(0o600)).expect("new");
        sim.root().sync_filesystem().expect("synced");
        let file = open(&sim);
        Self { sim, file, keyed: false, tail: Tail::Unknown, floor: SizeFloor::default() }
    }

    /// After a power cut, on what it left.
    pub fn after_crash(sim: Sim) -> Outcome<Self> {
        let file = open(&sim);
        let keyed = records::file_id(&*file)?.is_some();
        Ok(Self { sim, file, keyed, tail: Tail::Unknown, floor: SizeFloor::default() })
    }

    pub fn fork(&self) -> Self {
        let sim = self.sim.fork();
        let file = open(&sim);
        Self { sim, file, keyed: self.keyed, tail: self.tail, floor: SizeFloor::default() }
    }

    pub fn is_keyed(&self) -> bool {
        self.keyed
    }

    fn records(&self, keyed: bool) -> Records<'_> {
        let (file, cipher) = (&*self.file, keyed.then_some(&*CIPHER));
        Records { file, cipher, writeback: Writeback::WaitFirst, floor: &self.floor }
    }

    pub fn size(&self) -> Outcome<u64> {
        self.records(self.keyed).size()
    }

    pub fn read(&self) -> Outcome<Vec<u8>> {
        let records = self.records(self.keyed);
        let mut out = vec![0xff; usize::try_from(records.size()?).expect("small")];
        let n = records.read(0, &mut out, &mut Vec::new())?;
        assert_eq!(n, out.len(), "all of it is read");
        Ok(out)
    }

    pub fn run(&mut self, op: Op, value: u8) -> Outcome<()> {
        match op {
            Op::Sync => Ok(self.file.sync_data()?),
            Op::Truncate(to) => {
                self.change(self.keyed, |records, tail| records.set_size(tail, EDGES[to]))
            }
            Op::Write(from, to) => {
                self.take_key()?;
                let len = usize::try_from(EDGES[to] - EDGES[from]).expect("small");
                let data = vec![value; len];
                self.change(true, |records, tail| {
                    records.write(tail, EDGES[from], &data, &mut Vec::new())
                })
            }
            Op::Punch(from, to) => {
                self.take_key()?;
                let (mut at, end) = (EDGES[from], EDGES[to]);
                self.change(true, |records, tail| records.punch(tail, &mut at, end, &Piece::all()))
            }
        }
    }

    fn change(
        &mut self,
        keyed: bool,
        act: impl FnOnce(&Records<'_>, &mut Tail) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut tail = self.tail;
        let done = act(&self.records(keyed), &mut tail);
        self.tail = tail;
        done
    }

    fn take_key(&mut self) -> Outcome<()> {
        if !self.keyed {
            self.records(false).check_blank(&mut 0, &Piece::all())?;
            self.records(true).give_key()?;
            self.keyed = true;
        }
        Ok(())
    }
}
