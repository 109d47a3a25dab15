//! What a file must hold: by cells between neighbouring edges, whose bytes are all alike.

use kmsfs::disk::sim::Sim;

use crate::EDGES;
use crate::driver::Driver;

/// An operation; numbers are indices of [`EDGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Write(usize, usize),
    Truncate(usize),
    Punch(usize, usize),
    Sync,
}

/// A file's cells now, at its last sync, and after each operation since.
#[derive(Clone, Debug, Default)]
pub struct Model {
    now: Vec<u8>,
    synced: Vec<u8>,
    since: Vec<Vec<u8>>,
}

impl Model {
    pub fn present(&self) -> &[u8] {
        &self.now
    }

    pub fn apply(&mut self, op: Op, value: u8) {
        match op {
            Op::Write(from, to) => {
                self.now.resize(self.now.len().max(to), 0);
                self.now[from..to].fill(value);
            }
            Op::Truncate(to) => self.now.resize(to, 0),
            Op::Punch(from, to) => {
                let to = to.min(self.now.len());
                if from < to {
                    self.now[from..to].fill(0);
                }
            }
            Op::Sync => {
                self.synced.clone_from(&self.now);
                self.since.clear();
            }
        }
        self.since.push(self.now.clone());
    }

    /// An operation failed, and this is what it left; it may have been under way to its end.
    pub fn failed(&mut self, op: Op, value: u8, left: Vec<u8>) -> Result<(), String> {
        let before = self.now.clone();
        self.apply(op, value);
        if op == Op::Sync {
            // Whether it made anything durable is not known: nothing is taken as synced.
            return Err("a failed sync is not modelled".to_owned());
        }
        let after = std::mem::replace(&mut self.now, left.clone());
        if left.len() != before.len() && left.len() != after.len() {
            return Err(format!("{} cells are left of {before:?}", left.len()));
        }
        for (i, value) in left.iter().enumerate() {
            if before.get(i) != Some(value) && after.get(i) != Some(value) && *value != 0 {
                return Err(format!("cell {i} is {value} after a failure"));
            }
        }
        self.since.push(left);
        Ok(())
    }

    /// Whether a cell was synced and not touched since.
    fn is_stable(&self, cell: usize) -> bool {
        self.since.iter().all(|s| s.get(cell) == self.synced.get(cell))
    }

    fn is_possible(&self, cell: usize, value: u8) -> bool {
        let states = self.since.iter().chain([&self.synced]);
        value == 0 || states.filter_map(|s| s.get(cell)).any(|v| *v == value)
    }

    fn sizes(&self) -> (usize, usize) {
        let sizes = || self.since.iter().chain([&self.synced]).map(Vec::len);
        (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0))
    }

    /// Continues from what a power cut left, all of which is durable.
    pub fn after_crash(cells: Vec<u8>) -> Self {
        Self { now: cells.clone(), synced: cells.clone(), since: vec![cells] }
    }

    fn check(&self, cells: &[u8]) -> Result<(), String> {
        let (least, most) = self.sizes();
        if !(least..=most).contains(&cells.len()) {
            return Err(format!("{} cells, not {least} to {most}", cells.len()));
        }
        for cell in 0..self.synced.len() {
            if self.is_stable(cell) && cells.get(cell) != self.synced.get(cell) {
                return Err(format!("synced cell {cell} is {:?}", cells.get(cell)));
            }
        }
        for (cell, value) in cells.iter().enumerate() {
            if !self.is_possible(cell, *value) {
                return Err(format!("cell {cell} is {value}, never there since the sync"));
            }
        }
        Ok(())
    }

    /// Whether losing the header is allowed: then nothing is synced that still counts.
    fn may_be_unreadable(&self) -> bool {
        !(0..self.synced.len()).any(|cell| self.is_stable(cell))
    }
}

/// The cells of a content; an error where one is not of one value, or the size is no edge.
pub fn cells(content: &[u8]) -> Result<Vec<u8>, String> {
    let len = content.len() as u64;
    let count = EDGES.iter().position(|e| *e == len).ok_or(format!("a size of {len}"))?;
    let mut values = Vec::with_capacity(count);
    for edges in EDGES[..=count].windows(2) {
        let at = |e: u64| usize::try_from(e).expect("small");
        let cell = &content[at(edges[0])..at(edges[1])];
        // Neighbours compared as slices, which is fast without optimisation too.
        if cell[1..] != cell[..cell.len() - 1] {
            return Err(format!("the bytes from {} to {} are mixed", edges[0], edges[1]));
        }
        values.push(cell[0]);
    }
    Ok(values)
}

/// What a power cut left, if it is what the model allows; `None` where the header was lost,
/// and with it nothing that was synced.
pub fn check_crash(state: Sim, model: &Model) -> Result<Option<(Driver, Vec<u8>)>, String> {
    let driver = Driver::after_crash(state).map_err(|e| format!("no header: {e:?}"))?;
    match driver.read() {
        Ok(content) => {
            let cells = cells(&content)?;
            model.check(&cells)?;
            Ok(Some((driver, cells)))
        }
        Err(_) if !driver.is_keyed() && model.may_be_unreadable() => Ok(None),
        Err(e) => {
            let (size, keyed) = (driver.size(), driver.is_keyed());
            Err(format!("unreadable: {e:?} (size {size:?}, key {keyed})"))
        }
    }
}

/// Checks every state, or `limit` of them drawn from a seed.
pub fn check_crashes(
    driver: &Driver,
    model: &Model,
    limit: usize,
    seed: u64,
) -> Result<(), String> {
    for state in driver.sim.crash().states(limit, seed) {
        check_crash(state, model)?;
    }
    Ok(())
}
