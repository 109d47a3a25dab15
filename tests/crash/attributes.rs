//! Cuts the power between all calls of a change of `user.*` attributes, and fails each of them:
//! attributes move between an inode's block and places of their own, and at every step the one that
//! is changed has its old value or its new, and the others have theirs.
//!
//! The simulated disk takes a changed attribute as durable at once, so a power cut before a call is
//! what is left when that call and all after it fail.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use kmsfs::disk::sim::Sim;
use kmsfs::disk::{self, Open};
use kmsfs::fs::{Errno, NamesApart, XattrSet};
use kmsfs::upkeep::Kind;
use proptest::prelude::*;
use proptest::sample::select;

use crate::is_full;
use crate::simulated::{self, Volume};

/// What ext4 has room for, about.
const ROOM: usize = 4096;

/// Values by the number of the name.
type Values = BTreeMap<usize, Vec<u8>>;

fn name(n: usize) -> String {
    match n {
        0 => format!("user.{}", "n".repeat(250)),
        _ => format!("user.{n}"),
    }
}

/// Values of every length, no two alike.
fn value(len: usize, salt: u8) -> Vec<u8> {
    (0..len).map(|i| salt.wrapping_add(i.to_le_bytes()[0])).collect()
}

/// One change.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, Vec<u8>, XattrSet),
    Remove(usize),
}

impl Change {
    fn subject(&self) -> usize {
        match self {
            Self::Set(n, ..) | Self::Remove(n) => *n,
        }
    }

    /// What POSIX and Linux say where there is room.
    fn on(&self, values: &Values) -> Result<Values, i32> {
        let mut after = values.clone();
        match self {
            Self::Set(n, _, XattrSet::Create) if values.contains_key(n) => Err(libc::EEXIST),
            Self::Set(n, _, XattrSet::Replace) if !values.contains_key(n) => Err(libc::ENODATA),
            Self::Set(n, value, _) => {
                after.insert(*n, value.clone());
                Ok(after)
            }
            Self::Remove(n) => after.remove(n).map(|_| after).ok_or(libc::ENODATA),
        }
    }
}

/// A file with attributes in a volume.
struct Inode(Volume);

const FILE: &str = "f";

impl Inode {
    fn new() -> Self {
        let volume = Volume::new();
        volume.create(FILE).expect("made");
        Self(volume)
    }

    fn after_a_cut(sim: &Sim) -> Self {
        let sim = sim.fork();
        sim.clear_faults();
        Self(Volume::mount(sim).expect("a volume"))
    }

    fn sim(&self) -> &Sim {
        &self.0.sim
    }

    fn make(&self, change: &Change) -> Result<(), i32> {
        self.make_with(change, |_| {})
    }

    /// As `make`, with a fault from when the inode was looked up.
    fn make_with(&self, change: &Change, fault: impl FnOnce(&Sim)) -> Result<(), i32> {
        let done = self.0.at(FILE, |ino| {
            fault(self.sim());
            let done = self.0.run(|fs| match change {
                Change::Set(n, value, how) => fs.setxattr(ino, OsStr::new(&name(*n)), value, *how),
                Change::Remove(n) => fs.removexattr(ino, OsStr::new(&name(*n))),
            });
            Ok(done)
        });
        done.expect("it is there").map_err(|e| e.0)
    }

    /// All attributes, as a program lists and gets them.
    fn values(&self) -> Result<Values, String> {
        let seen = self.0.at(FILE, |ino| {
            let mut known = NamesApart::default();
            let list = self.0.run(|fs| fs.listxattr(ino, &mut known))?;
            let list = String::from_utf8(list).expect("names of the test");
            let mut seen = Values::new();
            for n in 0..NAMES {
                let name = name(n);
                match self.0.run(|fs| fs.getxattr(ino, OsStr::new(&name))) {
                    Ok(value) => drop(seen.insert(n, value)),
                    Err(Errno(libc::ENODATA)) => {}
                    Err(e) => return Err(e),
                }
            }
            Ok((list, seen))
        });
        let (list, seen) = seen.map_err(|e| format!("errno {}", e.0))?;
        let mut listed: Vec<&str> = list.split_terminator('\0').collect();
        let mut names: Vec<String> = seen.keys().map(|n| name(*n)).collect();
        listed.sort_unstable();
        names.sort_unstable();
        if listed != names {
            return Err(format!("{listed:?} are listed, and {names:?} have values"));
        }
        Ok(seen)
    }

    /// The attributes as they lie on disk.
    fn raw(&self) -> Vec<(std::ffi::OsString, Vec<u8>)> {
        let tree = simulated::tree(self.sim());
        let names = disk::names(&*tree).expect("listed");
        let pin = tree.open(&names[0], Open::Pin).expect("held");
        let all = pin.xattrs().expect("listed").into_iter();
        all.map(|name| (name.clone(), pin.xattr(&name).expect("there"))).collect()
    }

    fn expect(&self, wanted: &Values) -> Result<(), String> {
        let seen = self.values()?;
        if seen == *wanted { Ok(()) } else { Err(differ(&seen, wanted)) }
    }

    /// `kmsfs fsck` finds no damage, and a repair changes nothing that is seen.
    fn check(&self, wanted: &Values) -> Result<(), String> {
        let sim = self.sim().fork();
        let (fsck, checked, found) = simulated::fsck(&sim)?;
        if let Some(damage) = found.iter().find(|f| f.what.kind() == Kind::Damage) {
            return Err(format!("fsck finds {damage}"));
        }
        let hidden = found.iter().filter(|f| f.what.word() == "attribute-hidden").count();
        let repaired = fsck.repair(&checked, &mut |_, _| {}).map_err(|e| e.to_string())?;
        drop((fsck, checked));
        let (_, _, left) = simulated::fsck(&sim)?;
        if repaired.failed > 0 || left.iter().any(|f| f.what.word() == "attribute-hidden") {
            return Err(format!("{hidden} attributes are hidden, and are after a repair"));
        }
        Self::after_a_cut(&sim).expect(wanted)
    }
}

const NAMES: usize = 8;

fn differ(seen: &Values, wanted: &Values) -> String {
    let short = |values: &Values| {
        let of = |(n, v): (&usize, &Vec<u8>)| format!("{n}: {}×{:?}", v.len(), v.first());
        values.iter().map(of).collect::<Vec<_>>().join(", ")
    };
    format!("seen {}\nwanted {}", short(seen), short(wanted))
}

/// Old, or new, and nothing else.
fn old_or_new(seen: Values, old: &Values, new: &Values) -> Result<Values, String> {
    if seen == *old || seen == *new {
        return Ok(seen);
    }
    Err(format!("{}\nor {}", differ(&seen, old), differ(&seen, new)))
}

/// A change of an attribute from each place to each, beside others in each, with each call failing
/// and with a power cut before each.
#[test]
fn an_attribute_moves_in_steps_of_which_each_may_be_the_last() {
    let lengths = [None, Some(10), Some(3900), Some(5000), Some(2000)];
    let beside: [&[(usize, usize)]; 6] = [
        &[],
        &[(2, 3000)],
        &[(2, 5000)],
        &[(2, 3000), (3, 5000)],
        &[(2, 50)],
        &[(2, 2500), (3, 2500)],
    ];
    let (lengths, beside) =
        if is_full() { (&lengths[..], &beside[..]) } else { (&lengths[..4], &beside[..4]) };
    let (mut cuts, mut failures, mut full) = (0, 0, 0);
    for (before, after) in lengths.iter().flat_map(|a| lengths.iter().map(|b| (*a, *b))) {
        for (beside, room) in beside.iter().flat_map(|b| [(b, None), (b, Some(ROOM))]) {
            let what = format!("from {before:?} to {after:?} beside {beside:?}, room {room:?}");
            let inode = Inode::new();
            inode.sim().limit_attributes(room);
            let mut old = Values::new();
            let first = before.map(|len| (1, len));
            for (n, len) in beside.iter().copied().chain(first) {
                let change = Change::Set(n, value(len, 1), XattrSet::Any);
                match inode.make(&change) {
                    Ok(()) => old = change.on(&old).expect("it is set"),
                    Err(e) => assert!(e == libc::ENOSPC && room.is_some(), "{what}: errno {e}"),
                }
            }
            inode.expect(&old).unwrap_or_else(|why| panic!("{what}: {why}"));
            let change = match after {
                Some(len) => Change::Set(1, value(len, 99), XattrSet::Any),
                None => Change::Remove(1),
            };
            let Ok(new) = change.on(&old) else { continue };
            let start = inode.sim().fork();
            let whole = Inode::after_a_cut(&start);
            whole.sim().limit_attributes(room);
            let mut calls = 0;
            let done = whole.make_with(&change, |sim| calls = sim.operations());
            calls = whole.sim().operations() - calls;
            let fits = done.is_ok();
            let new = match done {
                Ok(()) => new,
                Err(libc::ENOSPC) if room.is_some() => {
                    full += 1;
                    assert!(whole.raw() == inode.raw(), "{what}: as it was");
                    old.clone()
                }
                Err(e) => panic!("{what}: errno {e}"),
            };
            whole.check(&new).unwrap_or_else(|why| panic!("{what}: {why}"));
            for n in 1..=calls {
                let what = format!("{what}, call {n} of {calls}");
                let failing = Inode::after_a_cut(&start);
                failing.sim().limit_attributes(room);
                let done = failing.make_with(&change, |sim| sim.fail_at(n, libc::EIO));
                failing.sim().clear_faults();
                let wanted = if done.is_ok() { &new } else { &old };
                failing.expect(wanted).unwrap_or_else(|why| panic!("{what}: {why}"));
                if done.is_err() {
                    failures += 1;
                    // Where there is no room, this may be the call that takes back.
                    assert!(!fits || failing.raw() == inode.raw(), "{what}: as it was");
                }

                let cut = Inode::after_a_cut(&start);
                cut.sim().limit_attributes(room);
                let done = cut.make_with(&change, |sim| sim.fail_from(n, libc::EIO));
                let left = Inode::after_a_cut(cut.sim());
                let seen = left.values().and_then(|seen| old_or_new(seen, &old, &new));
                let seen = seen.unwrap_or_else(|why| panic!("{what}, cut: {why}"));
                assert!(done.is_err() || seen == new, "{what}: what was answered is there");
                left.check(&seen).unwrap_or_else(|why| panic!("{what}, cut: {why}"));
                // And what is removed then does not come back.
                left.sim().limit_attributes(None);
                for again in [Change::Remove(1), Change::Set(4, value(5000, 4), XattrSet::Any)] {
                    let _ = left.make(&again);
                }
                let mut wanted = seen;
                wanted.remove(&1);
                wanted.insert(4, value(5000, 4));
                left.expect(&wanted).unwrap_or_else(|why| panic!("{what}, then: {why}"));
                cuts += 1;
            }
        }
    }
    assert!(cuts > 400 && failures > 300 && full > 10, "{cuts} cuts, {failures}, {full}");
}

#[derive(Clone, Debug)]
enum Step {
    Do(Change),
    Fail(Change, u64, i32),
    Cut(Change, u64),
    Remount,
    Room(bool),
}

fn changes() -> impl Strategy<Value = Change> {
    let len = prop_oneof![
        4 => 0..60usize,
        3 => 100..900usize,
        2 => 1000..4100usize,
        1 => select(vec![3985, 3986, 3987, 3988, 3991, 3992, 3993, 5000, 20_000]),
    ];
    let how = select(vec![XattrSet::Any, XattrSet::Any, XattrSet::Create, XattrSet::Replace]);
    prop_oneof![
        3 => (0..NAMES, len, any::<u8>(), how)
            .prop_map(|(n, len, salt, how)| Change::Set(n, value(len, salt), how)),
        1 => (0..NAMES).prop_map(Change::Remove),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let errno = select(vec![libc::EIO, libc::ENOSPC, libc::EDQUOT]);
    prop_oneof![
        6 => changes().prop_map(Step::Do),
        2 => (changes(), 1..12u64, errno).prop_map(|(c, n, e)| Step::Fail(c, n, e)),
        2 => (changes(), 1..12u64).prop_map(|(c, n)| Step::Cut(c, n)),
        1 => Just(Step::Remount),
        1 => any::<bool>().prop_map(Step::Room),
    ]
}

fn run(script: &[Step]) -> Result<(), String> {
    let (mut inode, mut values, mut room) = (Inode::new(), Values::new(), None);
    for (i, step) in script.iter().enumerate() {
        let failed = |why: String| format!("step {i}: {why}");
        match step {
            Step::Do(change) => match (inode.make(change), change.on(&values)) {
                (Ok(()), Ok(after)) => values = after,
                (Err(libc::ENOSPC), Ok(_)) if room.is_some() => {}
                (got, wanted) if got == wanted.clone().map(drop) => {}
                (got, _) => return Err(failed(format!("{got:?}"))),
            },
            Step::Fail(change, n, errno) => {
                let done = inode.make_with(change, |sim| sim.fail_at(*n, *errno));
                inode.sim().clear_faults();
                if done.is_ok() {
                    values = change.on(&values).map_err(|e| failed(format!("not errno {e}")))?;
                }
            }
            Step::Cut(change, n) => {
                let done = inode.make_with(change, |sim| sim.fail_from(*n, libc::EIO));
                inode = Inode::after_a_cut(inode.sim());
                let new = change.on(&values).unwrap_or_else(|_| values.clone());
                let seen = inode.values().and_then(|seen| old_or_new(seen, &values, &new));
                let seen = seen.map_err(failed)?;
                if done.is_ok() && seen != new {
                    return Err(failed(format!("{} was changed, and is not", change.subject())));
                }
                values = seen;
                inode.check(&values).map_err(failed)?;
            }
            Step::Remount => inode = Inode::after_a_cut(inode.sim()),
            Step::Room(limited) => room = limited.then_some(ROOM),
        }
        inode.sim().limit_attributes(room);
        inode.expect(&values).map_err(failed)?;
    }
    inode.check(&values)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if is_full() { 5000 } else { 200 },
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn long_scripts_on_attributes(script in proptest::collection::vec(steps(), 1..40)) {
        if let Err(why) = run(&script) {
            return Err(TestCaseError::fail(why));
        }
    }
}
