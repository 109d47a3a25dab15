//! The states that a power cut may leave of a whole simulated filesystem.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Sim;
use super::pages::Shape;
use super::world::{Body, EntryChange, World};

/// Over this many ways to keep entry changes they are no longer listed but drawn.
const LISTED: usize = 4096;

/// What a power cut may leave: a list of filesystems, each made when it is asked for.
#[derive(Debug)]
pub struct CrashSpace {
    world: World,
    files: Vec<(u64, Vec<Shape>)>,
    /// Which of the pending entry changes are kept.
    kept: Vec<Vec<bool>>,
}

impl CrashSpace {
    pub(super) fn of(world: &World) -> Self {
        let files = world
            .inodes
            .iter()
            .filter_map(|(ino, inode)| match &inode.body {
                Body::File(content) if !content.is_synced() => Some((*ino, content.shapes())),
                _ => None,
            })
            .collect();
        let mut world = world.clone();
        world.begin_copy();
        let kept = kept_sets(&world.pending);
        Self { world, files, kept }
    }

    /// How many states there are; not all distinct.
    pub fn count(&self) -> u128 {
        let files = self.files.iter().map(|(_, shapes)| shapes.iter().map(Shape::count).sum());
        files.fold(self.kept.len() as u128, |n: u128, of: u128| n.saturating_mul(of))
    }

    /// One of them.
    ///
    /// # Panics
    /// If `index` is not below [`Self::count`].
    pub fn state(&self, index: u128) -> Sim {
        let (mut rest, sets) = (index, self.kept.len() as u128);
        let kept = &self.kept[(rest % sets) as usize];
        rest /= sets;
        let mut world = self.world.clone();
        world.clear_fault();
        world.space = None;
        let pending = std::mem::take(&mut world.pending);
        for (change, _) in pending.iter().zip(kept).filter(|(_, keep)| **keep) {
            world.apply(change, |folder| &mut folder.durable);
        }
        for (ino, shapes) in &self.files {
            let all: u128 = shapes.iter().map(Shape::count).sum();
            let mut at = rest % all;
            rest /= all;
            for shape in shapes {
                if at < shape.count() {
                    world.inode(*ino).body = Body::File(shape.state(at));
                    break;
                }
                at -= shape.count();
            }
        }
        assert_eq!(rest, 0, "the index is below the count");
        for inode in world.inodes.values_mut() {
            let changed = matches!(&inode.body, Body::Dir(f) if f.entries != f.durable);
            if !(inode.locked || changed) {
                continue; // Shared with the world before.
            }
            let inode = Arc::make_mut(inode);
            inode.locked = false;
            if let Body::Dir(folder) = &mut inode.body {
                folder.entries = folder.durable.clone();
            }
        }
        drop_unreachable(&mut world);
        Sim(Arc::new(Mutex::new(world)))
    }

    /// All states if there are at most `limit`, else that many drawn from a seed; the first and
    /// the last (all changes kept, as a rule) are among them.
    pub fn states(&self, limit: usize, seed: u64) -> impl Iterator<Item = Sim> {
        let count = self.count();
        let mut random = SplitMix(seed);
        let all = count <= limit as u128;
        let n = if all { count } else { limit as u128 };
        (0..n).map(move |i| match i {
            i if all => self.state(i),
            0 => self.state(0),
            1 => self.state(count - 1),
            _ => self.state(random.below(count)),
        })
    }
}

/// The sets of changes that may be kept: with each change, all earlier ones in its directories.
fn kept_sets(pending: &[EntryChange]) -> Vec<Vec<bool>> {
    let mut sets: Vec<(Vec<bool>, BTreeSet<u64>)> = vec![(Vec::new(), BTreeSet::new())];
    for change in pending {
        let dirs = change.dirs();
        let mut next = Vec::with_capacity(sets.len() * 2);
        for (kept, closed) in sets {
            if closed.is_disjoint(&dirs) {
                next.push(([&kept[..], &[true]].concat(), closed.clone()));
            }
            let closed = &closed | &dirs;
            next.push(([&kept[..], &[false]].concat(), closed));
        }
        if next.len() > LISTED {
            // Thinned out evenly; the first, which keeps most, stays.
            next = next.into_iter().step_by(2).collect();
        }
        sets = next;
    }
    sets.into_iter().map(|(kept, _)| kept).rev().collect()
}

fn drop_unreachable(world: &mut World) {
    let mut seen = BTreeSet::from([super::world::ROOT]);
    let mut todo = vec![super::world::ROOT];
    while let Some(ino) = todo.pop() {
        if let Some(Body::Dir(folder)) = world.inodes.get(&ino).map(|i| &i.body) {
            let new: Vec<u64> =
                folder.entries.values().map(|(of, _)| *of).filter(|of| seen.insert(*of)).collect();
            todo.extend(new);
        }
    }
    world.inodes.retain(|ino, _| seen.contains(ino));
}

/// A small generator, so that a seed gives the same states on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, count: u128) -> u128 {
        (u128::from(self.next()) << 64 | u128::from(self.next())) % count
    }
}
