//! `kmsfs fsck` on a simulated disk: each kind of damage is found, and nothing else; what is
//! repaired is gone after, whenever the power is cut meanwhile.

mod corruptions;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use kmsfs::disk::sim::Sim;
use kmsfs::disk::{self, Dir, FileKind, Open};
use kmsfs::fs::{Caller, Change, Made, XattrSet};
use kmsfs::ids::FileId;
use kmsfs::store::{DataKeys, Names};
use kmsfs::upkeep::{Finding, Kind};

use crate::Raw;
use crate::simulated::{self, Tree, Volume, WHO, fsck};
use corruptions::{flip, on};

const LONG: &str = concat!(
    "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
    "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
    "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
    "long-50-bytes-50-bytes-50-bytes-50-bytes-50-bytes-",
);

/// A volume with something of everything in it, all of it durable and nothing left over.
struct Furnished {
    sim: Sim,
    /// Where each path lies: folders and entry on disk.
    lies: BTreeMap<String, (Vec<OsString>, OsString)>,
}

fn make(volume: &Volume, path: &str, what: Made<'_>) {
    let by = Caller { umask: 0, ..WHO };
    let made = volume.in_parent(path, |dir, name| volume.run(|fs| fs.make(dir, name, what, by)));
    volume.fs().forget(made.unwrap_or_else(|e| panic!("{path}: {e:?}")).attr.0.ino, 1);
}

fn furnish(volume: &Volume) -> Vec<String> {
    let long = format!("d/{LONG}");
    let paths = ["d", "d/e", "d/f", &long, "g", "h", "sparse", "empty", "grown", "l", "ll", "p"];
    for dir in ["d", "d/e"] {
        make(volume, dir, Made::Dir(0o755));
    }
    for (i, file) in ["d/f", &long, "g", "sparse", "empty", "grown"].into_iter().enumerate() {
        volume.create(file).expect("made");
        if i < 3 {
            volume.write(file, 0, &[b'a' + i as u8; 9000]).expect("written");
        }
    }
    volume.write("sparse", 5_000_000, b"end").expect("written");
    let longer = Change { size: Some(20_000), ..Change::default() };
    volume.at("grown", |ino| volume.run(|fs| fs.setattr(ino, &longer))).expect("grown");
    make(volume, "l", Made::Symlink(OsStr::new("d/f")));
    make(volume, "ll", Made::Symlink(OsStr::new(&"t".repeat(4000))));
    make(volume, "p", Made::Node(libc::S_IFIFO | 0o600, 0));
    for path in ["g", "d", ""] {
        let set = |ino| {
            let name = OsStr::new("user.note");
            volume.run(|fs| fs.setxattr(ino, name, b"value", XattrSet::Any))
        };
        volume.at(path, set).expect("set");
    }
    let link = |ino| {
        volume.in_parent("h", |dir, name| volume.run(|fs| fs.link(ino, dir, name, WHO)))?;
        volume.fs().forget(ino, 1);
        Ok(())
    };
    volume.at("g", link).expect("linked");
    paths.map(str::to_owned).to_vec()
}

fn child(dir: &Dir, ino: u64) -> OsString {
    let mut found = None;
    let look = &mut |e: disk::Entry| {
        let wanted = e.ino == ino && e.name != "." && e.name != "..";
        found = found.take().or(wanted.then_some(e.name));
        true
    };
    dir.list(0, look).expect("listed");
    found.expect("every inode has a name")
}

impl Furnished {
    fn new(names: Names, data_keys: DataKeys) -> Self {
        let volume = Volume::with(names, data_keys);
        let mut lies = BTreeMap::new();
        for path in furnish(&volume) {
            let (mut dir, mut folders) = (simulated::tree(&volume.sim), Vec::new());
            let parts: Vec<&str> = path.split('/').collect();
            for n in 1..=parts.len() {
                let ino = volume.at(&parts[..n].join("/"), Ok).expect("there");
                let entry = child(&dir, ino);
                if n < parts.len() {
                    dir = dir.open_dir(&entry).expect("a folder");
                }
                folders.push(entry);
            }
            let entry = folders.pop().expect("a path has a name");
            lies.insert(path, (folders, entry));
        }
        let sim = volume.unmount();
        repair(&sim);
        sim.root().sync_filesystem().expect("synced");
        Self { sim, lies }
    }

    fn raw(&self, sim: &Sim, path: &str) -> Raw {
        let (folders, entry) = &self.lies[path];
        let open = |dir: Dir, name: &OsString| dir.open_dir(name).expect("a folder");
        Raw { dir: folders.iter().fold(simulated::tree(sim), open), name: entry.clone() }
    }

    fn id(&self, path: &str) -> FileId {
        FileId(self.raw(&self.sim, path).bytes()[8..24].try_into().expect("sixteen bytes"))
    }

    fn page(&self, sim: &Sim, path: &str) -> Raw {
        let page = self.id(path).page().to_string();
        Raw::in_store(&sim.root(), &["keys", &page[..2], &page])
    }
}

fn repair(sim: &Sim) {
    let (fsck, checked, _) = fsck(sim).expect("opened");
    let mut failed = Vec::new();
    fsck.repair(&checked, &mut |finding, e| failed.extend(e.map(|e| (finding.clone(), e))))
        .expect("the disk is well");
    assert_eq!(failed, []);
}

fn found(sim: &Sim) -> Vec<Finding> {
    let mut found = fsck(sim).expect("opened").2;
    found.sort_by_key(ToString::to_string);
    found
}

/// The words of what was found, with where, sorted.
fn words(sim: &Sim) -> Vec<String> {
    let word = |f: &Finding| format!("{} {} {}", f.what.kind().name(), f.what.word(), f.place);
    let mut words: Vec<String> = found(sim).iter().map(word).collect();
    words.sort();
    words
}

/// All that lies on a disk, but for times.
fn dump(dir: &Dir, at: &str, all: &mut BTreeMap<String, Vec<u8>>) {
    for name in disk::names(&**dir).expect("listed") {
        let path = format!("{at}/{}", name.as_bytes().escape_ascii());
        let stat = dir.stat(&name).expect("there");
        let mut bytes = format!("{:o} {} {} ", stat.mode, stat.nlink, stat.size).into_bytes();
        for attr in dir.xattrs(&name).expect("listed") {
            bytes.extend(attr.as_bytes());
            bytes.extend(dir.xattr(&name, &attr).expect("there"));
        }
        match stat.kind() {
            FileKind::Dir => dump(&dir.open_dir(&name).expect("a folder"), &path, all),
            FileKind::File => bytes.extend(disk::read_all(&**dir, &name, 1 << 24).expect("read")),
            FileKind::Symlink => bytes.extend(dir.readlink(&name).expect("read").as_bytes()),
            _ => {}
        }
        all.insert(path, bytes);
    }
}

fn dumped(sim: &Sim) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    dump(&sim.root(), "", &mut all);
    all
}

const MODES: [(Names, DataKeys); 3] = [
    (Names::Encrypted, DataKeys::PerFile),
    (Names::Encrypted, DataKeys::Branch),
    (Names::Plain, DataKeys::PerFile),
];

#[test]
fn a_healthy_store_is_clean_and_a_check_writes_nothing() {
    for (names, data_keys) in MODES {
        let furnished = Furnished::new(names, data_keys);
        let before = dumped(&furnished.sim);
        let pending = furnished.sim.crash().count();
        assert_eq!(words(&furnished.sim), Vec::<String>::new(), "{names:?} {data_keys:?}");
        // Where there would be much to write.
        furnished.sim.root().unlink(OsStr::new("volume.json")).expect("there");
        simulated::tree(&furnished.sim).mkdir(OsStr::new("new"), 0o755).expect("made");
        let (before_too, pending_too) = (dumped(&furnished.sim), furnished.sim.crash().count());
        assert!(found(&furnished.sim).len() >= usize::from(names == Names::Encrypted));
        assert!(before != before_too && dumped(&furnished.sim) == before_too);
        assert!(pending == 1 && furnished.sim.crash().count() == pending_too);
    }
}

/// What is told besides: the lines that lost their file, and what lies in a directory that lost
/// its names.
fn is_consequence(corruption: &str, word: &str) -> bool {
    let lines = ["key", "header", "header-missing", "id-twice"].iter();
    let loses_lines = lines.clone().any(|w| corruption.starts_with(&format!("damage {w} ")));
    (loses_lines && word.starts_with("leftover lines-unused"))
        || (corruption.contains("id-twice") && word.starts_with("damage name "))
        || (corruption.contains("link-target /l") && word.starts_with("leftover link-body"))
}

#[test]
fn each_damage_is_found_and_nothing_else() {
    let furnished = Furnished::new(Names::Encrypted, DataKeys::PerFile);
    for (wanted, act) in corruptions::all() {
        let sim = furnished.sim.fork();
        act(&furnished, &sim);
        let words = words(&sim);
        let (own, others): (Vec<_>, Vec<_>) = words.iter().partition(|w| w.starts_with(wanted));
        assert_eq!(own.len(), 1, "{wanted}: {words:?}");
        assert!(others.iter().all(|w| is_consequence(wanted, w)), "{wanted}: {words:?}");
    }
}

#[test]
fn branch_keys_that_are_missing_damaged_or_exchanged() {
    let furnished = Furnished::new(Names::Encrypted, DataKeys::Branch);
    let branch = |sim: &Sim| {
        let dir = Raw::in_store(&sim.root(), &["keys", "branch", "x"]).dir;
        let name = disk::names(&*dir).expect("listed").remove(0);
        Raw { dir, name }
    };
    let keys = |words: &[String]| words.iter().filter(|w| w.starts_with("damage key ")).count();
    for (wanted, act) in [
        ("damage branch-missing", (|raw| raw.dir.unlink(&raw.name).expect("there")) as fn(&Raw)),
        ("damage branch-damaged", |raw| raw.put(0, b"x")),
        ("damage key", |raw| {
            let at = raw.bytes().len() - 20;
            raw.put(at, if raw.bytes()[at] == b'7' { b"8" } else { b"7" });
        }),
    ] {
        let sim = furnished.sim.fork();
        act(&branch(&sim));
        let words = words(&sim);
        assert!(words.iter().any(|w| w.starts_with(wanted)), "{wanted}: {words:?}");
        assert_eq!(keys(&words), 4, "every file with a key: {words:?}");
        let branches = usize::from(wanted != "damage key");
        assert_eq!(words.len(), 4 + branches, "{wanted}: {words:?}");
    }
}

/// What a mount shows, without inode numbers that a repair may change.
fn tree(sim: &Sim) -> Tree {
    Volume::mount(sim.fork()).expect("it opens").tree().expect("it lists")
}

/// Each repair, with the power cut at every moment of it: what is left opens, shows the same tree,
/// and has no damage but what was there; and the next check finds nothing to repair.
#[test]
fn a_repair_is_complete_and_may_be_cut_short() {
    let furnished = Furnished::new(Names::Encrypted, DataKeys::PerFile);
    let mut repaired = 0;
    for (wanted, act) in corruptions::all() {
        let sim = furnished.sim.fork();
        act(&furnished, &sim);
        let (job, checked, _) = fsck(&sim).expect("opened");
        // Of two files with one id, which of them was there before cannot be told.
        if checked.repairable() == 0 || wanted == "damage id-twice" {
            continue;
        }
        drop(job);
        sim.root().sync_filesystem().expect("synced");
        // A mount takes the first copy of volume.json wherever that parses.
        let opens = Volume::mount(sim.fork()).is_ok();
        let before = tree(&furnished.sim);
        assert!(opens || wanted.contains("volume-wrong"), "{wanted}");
        let _ = sim.moments();
        repair(&sim);
        repaired += 1;
        assert_eq!(words(&sim), Vec::<String>::new(), "{wanted}: all of it");
        for moment in sim.moments().iter().chain([&sim]) {
            for state in moment.crash().states(64, 0) {
                if opens {
                    assert_eq!(tree(&state), before, "{wanted}");
                }
                repair(&state);
                assert_eq!(tree(&state), before, "{wanted}");
                assert_eq!(words(&state), Vec::<String>::new(), "{wanted}");
            }
        }
    }
    assert_eq!(repaired, 21, "each that can be repaired");
}

/// Two files with one id: a backup copies a file twice that is renamed meanwhile. They become one
/// again where they are the same; else the older one is moved aside.
#[test]
fn files_with_one_id_become_one_or_the_older_is_moved_aside() {
    let furnished = Furnished::new(Names::Encrypted, DataKeys::PerFile);
    let shown = |sim: &Sim, path: &str| {
        let read = Volume::mount(sim.fork()).expect("it opens").read(path);
        read.map_err(|e| e.0)
    };
    let before = shown(&furnished.sim, "d/f");
    for changed in [false, true] {
        let sim = furnished.sim.fork();
        let bytes = furnished.raw(&sim, "d/f").bytes();
        let twin = furnished.raw(&sim, "empty");
        twin.set(&bytes);
        if changed {
            // Another state of the file: a record less.
            twin.set_size(4096 + 4000);
            furnished.raw(&sim, "d/f").set(&bytes);
        }
        let from =
            furnished.raw(&sim, "d/f").dir.stat(&furnished.raw(&sim, "d/f").name).expect("there");
        let to = twin.dir.open(&twin.name, Open::Pin).expect("held");
        to.set_owner(Some(from.uid), Some(from.gid)).expect("set");
        to.set_mode(from.mode & 0o7777).expect("set");
        if changed {
            let now = disk::TimeChange::Now;
            let newest = furnished.raw(&sim, "d/f").pin();
            newest.set_times(now, now).expect("set");
        }
        assert_eq!(words(&sim).iter().filter(|w| w.starts_with("damage id-twice ")).count(), 1);
        sim.root().sync_filesystem().expect("synced");
        let _ = sim.moments();
        repair(&sim);
        for moment in sim.moments().iter().chain([&sim]) {
            for state in moment.crash().states(64, 0) {
                repair(&state);
                assert_eq!(words(&state), Vec::<String>::new());
                assert_eq!(shown(&state, "d/f"), before);
                let other = shown(&state, "empty");
                let wanted = if changed { Err(libc::ENOENT) } else { before.clone() };
                assert_eq!(other, wanted);
                let aside = state.root().open_dir(OsStr::new("aside"));
                assert_eq!(aside.is_ok_and(|dir| dir.stat(OsStr::new("files")).is_ok()), changed);
            }
        }
    }
}

/// A header whose file id is damaged says another line, and its own seems to be nobody's.
#[test]
fn no_key_is_removed_that_may_be_a_damaged_files() {
    let furnished = Furnished::new(Names::Encrypted, DataKeys::PerFile);
    for (wanted, act) in [("key", on("d/f", flip(10))), ("header", on("d/f", flip(1)))] {
        let sim = furnished.sim.fork();
        act(&furnished, &sim);
        let before = furnished.page(&sim, "d/f").bytes();
        let (job, checked, _) = fsck(&sim).expect("opened");
        assert_eq!((checked.repairable(), checked.kept()), (0, 1), "{wanted}");
        drop(job);
        repair(&sim);
        assert_eq!(furnished.page(&sim, "d/f").bytes(), before);
        act(&furnished, &sim);
        assert_eq!(words(&sim), Vec::<String>::new(), "{wanted}: put right by hand");
    }
}

/// Deeper than directories are kept open, and with more entries than are listed at a time: each
/// file is seen, those too that come after the way down.
#[test]
fn a_deep_tree_and_a_wide_one_are_seen_to_their_ends() {
    const DEEP: usize = 150;
    const WIDE: usize = 1200;
    let volume = Volume::new();
    let mut at = String::new();
    for _ in 0..DEEP {
        make(&volume, &format!("{at}d"), Made::Dir(0o755));
        volume.create(&format!("{at}after")).expect("made");
        at.push_str("d/");
    }
    (0..WIDE).for_each(|n| volume.create(&format!("wide{n}")).expect("made"));
    let sim = volume.unmount();
    let mut dirs = vec![simulated::tree(&sim)];
    let mut cut = 0;
    while let Some(dir) = dirs.pop() {
        for name in disk::names(&*dir).expect("listed") {
            match dir.stat(&name).expect("there").kind() {
                FileKind::Dir => dirs.push(dir.open_dir(&name).expect("ok")),
                FileKind::File => {
                    Raw { dir: dir.clone(), name }.set_size(9);
                    cut += 1;
                }
                _ => {}
            }
        }
    }
    let words = words(&sim);
    assert_eq!((words.len(), cut), (DEEP + WIDE, DEEP + WIDE));
    assert!(words.iter().all(|w| w.starts_with("leftover size /")), "{:?}", words.first());
    let deepest = format!("leftover size /{}after", "d/".repeat(DEEP - 1));
    assert!(words.contains(&deepest) && words.contains(&"leftover size /after".to_owned()));
}

/// Every operation of a check fails in turn: it tells so, or nothing, and never that a leftover
/// can be removed that is none.
#[test]
fn a_disk_that_fails_hides_nothing() {
    let furnished = Furnished::new(Names::Encrypted, DataKeys::PerFile);
    let sim = furnished.sim.fork();
    let start = sim.operations();
    fsck(&sim).expect("opened");
    let count = sim.operations() - start;
    for n in 1..=count {
        let sim = furnished.sim.fork();
        sim.fail_at(n, libc::EIO);
        let Ok((_, checked, found)) = fsck(&sim) else { continue };
        let damage = found.iter().any(|f| f.what.kind() == Kind::Damage);
        if !damage {
            eprintln!("operation {n} of {count}: {found:?}");
            continue;
        }
        assert_eq!(checked.repairable(), 0, "operation {n}: {found:?}");
    }
}
