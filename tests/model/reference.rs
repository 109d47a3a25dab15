//! The reference: a flat directory of files, and what POSIX says of each operation.

use std::collections::BTreeMap;

use proptest::prelude::*;

/// One operation on the files of one directory.
#[derive(Clone, Debug)]
pub enum Op {
    /// open(2) with O_CREAT | O_EXCL.
    Create(usize),
    /// pwrite(2) of `len` bytes of one value.
    Write(usize, u64, usize, u8),
    /// pread(2).
    Read(usize, u64, usize),
    /// truncate(2).
    Truncate(usize, u64),
    /// fallocate(2) with PUNCH_HOLE.
    Punch(usize, u64, u64),
    /// fsync(2).
    Sync(usize),
    /// rename(2).
    Rename(usize, usize),
    /// link(2).
    Link(usize, usize),
    /// unlink(2).
    Unlink(usize),
    /// The size, as bytes.
    Size(usize),
}

/// How many names there are; one of them is long.
pub const NAMES: usize = 4;

/// The name of a number.
pub fn name(n: usize) -> String {
    if n == 0 { "long-".repeat(50) } else { format!("name-{n}") }
}

/// Offsets and lengths crowd around the edges of records.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..20_000,
        prop::sample::select(vec![0, 1, 4043, 4044, 4045, 4096, 8111, 8112, 8113, 12180, 100_000]),
    ]
}

/// Any operation.
pub fn ops() -> impl Strategy<Value = Op> {
    let n = || 0..NAMES;
    let len = || prop_oneof![1usize..100, Just(4044), Just(4068), 1usize..12_000];
    prop_oneof![
        3 => n().prop_map(Op::Create),
        6 => (n(), offset(), len(), 1u8..).prop_map(|(n, o, l, v)| Op::Write(n, o, l, v)),
        4 => (n(), offset(), len()).prop_map(|(n, o, l)| Op::Read(n, o, l)),
        3 => (n(), offset()).prop_map(|(n, o)| Op::Truncate(n, o)),
        2 => (n(), offset(), offset()).prop_map(|(n, o, l)| Op::Punch(n, o, l + 1)),
        1 => n().prop_map(Op::Sync),
        2 => (n(), n()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| Op::Link(a, b)),
        1 => n().prop_map(Op::Unlink),
        1 => n().prop_map(Op::Size),
    ]
}

/// The model: names point to files.
#[derive(Default)]
pub struct Model {
    names: BTreeMap<usize, usize>,
    files: Vec<Vec<u8>>,
}

impl Model {
    fn file(&mut self, n: usize) -> Result<&mut Vec<u8>, i32> {
        let file = *self.names.get(&n).ok_or(libc::ENOENT)?;
        Ok(&mut self.files[file])
    }

    /// What POSIX says.
    pub fn run(&mut self, op: &Op) -> Result<Vec<u8>, i32> {
        match *op {
            Op::Create(n) => {
                if self.names.contains_key(&n) {
                    return Err(libc::EEXIST);
                }
                self.files.push(Vec::new());
                self.names.insert(n, self.files.len() - 1);
            }
            Op::Write(n, at, len, value) => {
                let (file, at) = (self.file(n)?, at as usize);
                file.resize(file.len().max(at + len), 0);
                file[at..at + len].fill(value);
            }
            Op::Read(n, at, len) => {
                let (file, at) = (self.file(n)?, at as usize);
                return Ok(file.get(at..file.len().min(at + len)).unwrap_or_default().to_vec());
            }
            Op::Truncate(n, size) => self.file(n)?.resize(size as usize, 0),
            Op::Punch(n, at, len) => {
                let (file, at) = (self.file(n)?, at as usize);
                let end = file.len().min(at + len as usize);
                if at < end {
                    file[at..end].fill(0);
                }
            }
            Op::Sync(n) => drop(self.file(n)?),
            Op::Rename(a, b) => {
                let file = *self.names.get(&a).ok_or(libc::ENOENT)?;
                // Two names of one file: rename(2) does nothing.
                if self.names.get(&b) != Some(&file) {
                    self.names.remove(&a);
                    self.names.insert(b, file);
                }
            }
            Op::Link(a, b) => {
                let file = *self.names.get(&a).ok_or(libc::ENOENT)?;
                if self.names.contains_key(&b) {
                    return Err(libc::EEXIST);
                }
                self.names.insert(b, file);
            }
            Op::Unlink(n) => drop(self.names.remove(&n).ok_or(libc::ENOENT)?),
            Op::Size(n) => return Ok(self.file(n)?.len().to_le_bytes().to_vec()),
        }
        Ok(Vec::new())
    }

    /// Reads that look at all there is.
    pub fn everything(&self) -> Vec<Op> {
        (0..NAMES).flat_map(|n| [Op::Size(n), Op::Read(n, 0, 1 << 20)]).collect()
    }
}
