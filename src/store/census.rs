//! Under which master keys a store's data keys are.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Store, WrapKind};
use crate::disk::Time;
use crate::ids::BranchId;
use crate::kms::KeyArn;

/// More different keys than this are counted together: the lines are the store's, and whoever
/// can write it could name as many as there are.
const MOST_KEYS: usize = 64;

/// A branch key, and the lines under it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BranchCount {
    /// The master key that wrapped it; `None` where its file is missing or damaged.
    pub master: Option<KeyArn>,
    /// How many lines say it.
    pub lines: u64,
}

/// Lines, by what they say that their keys are under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By master key.
    pub masters: BTreeMap<KeyArn, u64>,
    /// By branch key, those without a line among them.
    pub branches: BTreeMap<BranchId, BranchCount>,
    /// Of still other keys.
    pub others: u64,
    /// Lines that cannot be read.
    pub damaged: u64,
}

fn count<K: Ord>(map: &mut BTreeMap<K, u64>, key: K, lines: u64, others: &mut u64) {
    if map.len() < MOST_KEYS || map.contains_key(&key) {
        *map.entry(key).or_default() += lines;
    } else {
        *others += lines;
    }
}

impl Counts {
    fn add(&mut self, more: &Self) {
        for (key, lines) in &more.masters {
            count(&mut self.masters, key.clone(), *lines, &mut self.others);
        }
        for (branch, more) in &more.branches {
            self.branches.entry(*branch).or_default().lines += more.lines;
        }
        self.others += more.others;
        self.damaged += more.damaged;
    }

    fn look_at_branches(&mut self, store: &Store) -> io::Result<()> {
        for branch in store.branches()? {
            self.branches.entry(branch).or_default();
        }
        let mut others = Vec::new();
        for (branch, count) in &mut self.branches {
            match store.read_branch(*branch) {
                // Of the recovery's: nothing of the KMS's is under it.
                Ok(file) if file.by_kms.is_none() && count.lines == 0 => others.push(*branch),
                Ok(file) => count.master = file.master().cloned(),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {}
                Err(e) => return Err(e),
            }
        }
        others.iter().for_each(|branch| drop(self.branches.remove(branch)));
        Ok(())
    }

    /// How many lines are under each master key, directly or by a branch key; `None` for those
    /// whose branch key is missing or damaged.
    pub fn by_master(&self) -> BTreeMap<Option<&KeyArn>, u64> {
        let mut all: BTreeMap<_, _> = self.masters.iter().map(|(k, n)| (Some(k), *n)).collect();
        for branch in self.branches.values().filter(|b| b.lines > 0) {
            *all.entry(branch.master.as_ref()).or_default() += branch.lines;
        }
        all
    }

    fn of_shard(store: &Store, shard: u8) -> io::Result<Self> {
        let mut counts = Self::default();
        for page in store.pages(shard)? {
            let Some(page) = store.read_page(page)? else { continue };
            counts.damaged += page.damaged() as u64;
            for line in page.readable() {
                match line.kind {
                    WrapKind::Master(arn) => {
                        count(&mut counts.masters, arn, 1, &mut counts.others);
                    }
                    WrapKind::Branch(id) => counts.branches.entry(id).or_default().lines += 1,
                }
            }
        }
        Ok(counts)
    }
}

struct Shard {
    changed: Time,
    counts: Counts,
}

/// Counts lines, and counts again only what has changed: a page is only ever replaced whole, and
/// that changes its folder.
#[derive(Default)]
pub struct Census(BTreeMap<u8, Shard>);

impl Census {
    /// The counts, where no page has changed since they were all taken.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn unchanged(&self, store: &Store) -> io::Result<Option<Counts>> {
        let mut all = Counts::default();
        for shard in 0..=u8::MAX {
            match self.0.get(&shard) {
                Some(known) if known.changed == store.pages_changed(shard)? => {
                    all.add(&known.counts);
                }
                _ => return Ok(None),
            }
        }
        all.look_at_branches(store)?;
        Ok(Some(all))
    }

    /// Counts the lines of a store; of one and the same at every call.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn take(&mut self, store: &Store) -> io::Result<Counts> {
        let mut all = Counts::default();
        for shard in 0..=u8::MAX {
            let changed = store.pages_changed(shard)?;
            match self.0.get(&shard) {
                Some(known) if known.changed == changed => all.add(&known.counts),
                _ => {
                    let counts = Counts::of_shard(store, shard)?;
                    all.add(&counts);
                    if is_settled(changed) {
                        self.0.insert(shard, Shard { changed, counts });
                    }
                }
            }
        }
        all.look_at_branches(store)?;
        Ok(all)
    }
}

/// Whether another change would certainly have another time: clocks of filesystems are coarse.
fn is_settled(changed: Time) -> bool {
    let then = u64::try_from(changed.secs).map(Duration::from_secs).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now > then + Duration::from_secs(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::Sim;
    use crate::ids::PageId;
    use crate::kms::Wrapped;
    use crate::recovery::Sealed;
    use crate::store::{BranchFile, Line, Page};

    fn line(slot: u16, kind: WrapKind) -> Line {
        Line { slot, kind, key: Wrapped(vec![7; 60]), second: None, check: [1; 32] }
    }

    #[test]
    fn lines_are_counted_by_key_and_counted_again_when_a_page_changes() {
        let sim = Sim::new();
        let store = Store::init(sim.root()).expect("made");
        let (old, branch) = (KeyArn("arn:old".to_owned()), BranchId::random());
        let page = PageId([3; 14]);
        let lines = [
            line(0, WrapKind::Master(old.clone())),
            line(1, WrapKind::Master(old.clone())),
            line(2, WrapKind::Branch(branch)),
        ];
        let mut bytes = Page::of(&lines).encode();
        bytes.extend_from_slice(b"not a line\n");
        store.add_page(page, &Page::parse(&bytes)).expect("written");
        let mut census = Census::default();
        let counts = census.take(&store).expect("counted");
        assert_eq!(counts.masters, BTreeMap::from([(old.clone(), 2)]));
        let unknown = BranchCount { master: None, lines: 1 };
        assert_eq!(counts.branches, BTreeMap::from([(branch, unknown)]));
        let file = BranchFile::by_kms(old.clone(), Wrapped(vec![7; 60]));
        store.write_branch(branch, &file).expect("written");
        let sealed = Some(Sealed { age: vec![1; 200], mac: [2; 32] });
        let of_recovery = BranchFile { by_kms: None, recovery: sealed };
        store.write_branch(BranchId::random(), &of_recovery).expect("written");
        let counts = census.take(&store).expect("counted");
        assert_eq!(counts.by_master(), BTreeMap::from([(Some(&old), 3)]));
        assert_eq!(counts.branches.len(), 1, "the KMS knows of one");
        assert_eq!(counts.damaged, 1);
        store.remove_lines(page, &[0].into()).expect("removed");
        assert_eq!(census.take(&store).expect("counted").masters, BTreeMap::from([(old, 1)]));
    }

    #[test]
    fn a_store_that_names_many_keys_fills_no_memory() {
        let mut counts = Counts::default();
        for n in 0..1000u32 {
            let more = BTreeMap::from([(KeyArn(format!("arn:{n}")), 1)]);
            counts.add(&Counts { masters: more, ..Counts::default() });
        }
        assert_eq!((counts.masters.len(), counts.others), (MOST_KEYS, 1000 - MOST_KEYS as u64));
    }
}
