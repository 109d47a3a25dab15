//! An operation that fails leaves everything as it was: each call that each operation makes of
//! the store fails once.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

use kmsfs::disk::sim::Sim;
use kmsfs::disk::{self, Dir, FileKind, Open, Time};
use kmsfs::fs::{
    Change, Detail, Errno, Fs, Made, OpenFor, Outcome, ROOT, RenameHow, SetTime, Visit, XattrSet,
};

use crate::simulated::{Volume, WHO};

/// Everything in a store by its path: all that a failing operation could leave behind, but for
/// the times, which what is taken back changes too.
type Snapshot = BTreeMap<OsString, (u32, u32, u32, Vec<(OsString, Vec<u8>)>, Vec<u8>)>;

fn snapshot(dir: &Dir, path: &OsStr, all: &mut Snapshot) {
    for name in disk::names(&**dir).expect("listed") {
        let mut at = path.to_owned();
        at.push("/");
        at.push(&name);
        let pin = dir.open(&name, Open::Pin).expect("there");
        let stat = pin.stat().expect("there");
        let names = pin.xattrs().expect("listed").into_iter();
        let xattrs = names.map(|x| (x.clone(), pin.xattr(&x).expect("there"))).collect();
        let content = match stat.kind() {
            FileKind::File => disk::read_all(&**dir, &name, 1 << 20).expect("readable"),
            FileKind::Symlink => pin.readlink().expect("a link").into_encoded_bytes(),
            FileKind::Dir => {
                snapshot(&dir.open_dir(&name).expect("there"), &at, all);
                Vec::new()
            }
            _ => Vec::new(),
        };
        all.insert(at, (stat.mode, stat.uid, stat.gid, xattrs, content));
    }
}

fn of_store(sim: &Sim) -> Snapshot {
    let mut all = Snapshot::new();
    snapshot(&sim.root(), OsStr::new(""), &mut all);
    all
}

/// The paths that are not as they were.
fn changed(before: &Snapshot, sim: &Sim) -> Vec<OsString> {
    let after = of_store(sim);
    let paths = before.keys().chain(after.keys());
    paths.filter(|path| before.get(*path) != after.get(*path)).cloned().collect()
}

fn long(end: &str) -> String {
    "long-".repeat(40) + end
}

/// What each operation finds: names of every kind, short and long.
static STORE: LazyLock<Sim> = LazyLock::new(|| {
    let volume = Volume::new();
    let make = |path: &str, what: Made<'_>| {
        let made = volume.in_parent(path, |dir, name| {
            let ino = volume.run(|fs| fs.make(dir, name, what, WHO))?.attr.0.ino;
            volume.fs().forget(ino, 1);
            Ok(())
        });
        made.expect("made");
    };
    for dir in ["empty", "other", "full", "full/below", &long("dir"), &long("other")] {
        make(dir, Made::Dir(0o755));
    }
    for file in ["file", "full/x", &long("file")] {
        volume.create(file).expect("made");
        volume.write(file, 0, b"something").expect("written");
    }
    make("pipe", Made::Node(libc::S_IFIFO | 0o644, 0));
    make("link", Made::Symlink(OsStr::new("file")));
    make("far", Made::Symlink(OsStr::new(&"t".repeat(4000))));
    for (path, value) in [("file", &b"old"[..]), ("empty", b"old"), ("full", &[7; APART])] {
        let set = |ino| volume.run(|fs| fs.setxattr(ino, attribute(), value, XattrSet::Any));
        volume.at(path, set).expect("set");
    }
    volume.unmount()
});

fn attribute() -> &'static OsStr {
    OsStr::new("user.attribute")
}

/// The inodes that the kernel knows, by name in the root.
type Known = BTreeMap<OsString, u64>;

/// An operation, as the kernel asks for it.
type Op = Box<dyn Fn(&Fs, &Known) -> Outcome<()>>;

fn made(name: String, what: Made<'static>) -> Op {
    Box::new(move |fs, _| {
        let ino = fs.make(ROOT, OsStr::new(&name), what, WHO)?.attr.0.ino;
        fs.forget(ino, 1);
        Ok(())
    })
}

fn create(name: String) -> Op {
    Box::new(move |fs, _| {
        let ino = fs.create(ROOT, OsStr::new(&name), 0o640, WHO)?.attr.0.ino;
        fs.release(ino, OpenFor::Writing)?;
        fs.forget(ino, 1);
        Ok(())
    })
}

fn link(from: &'static str, to: String) -> Op {
    Box::new(move |fs, known| {
        let ino = fs.link(known[OsStr::new(from)], ROOT, OsStr::new(&to), WHO)?.attr.0.ino;
        fs.forget(ino, 1);
        Ok(())
    })
}

fn unlink(name: String) -> Op {
    Box::new(move |fs, _| fs.unlink(ROOT, OsStr::new(&name)))
}

fn rmdir(name: String) -> Op {
    Box::new(move |fs, _| fs.rmdir(ROOT, OsStr::new(&name)))
}

fn rename(from: String, to: String, how: RenameHow) -> Op {
    Box::new(move |fs, _| fs.rename((ROOT, OsStr::new(&from)), (ROOT, OsStr::new(&to)), how))
}

fn setattr(name: &'static str, change: Change) -> Op {
    Box::new(move |fs, known| fs.setattr(known[OsStr::new(name)], &change).map(|_| ()))
}

/// A value of so many bytes lies apart from the attribute block.
const APART: usize = 5000;

fn setxattr(name: &'static str, len: usize, how: XattrSet) -> Op {
    let value = vec![b'n'; len];
    Box::new(move |fs, known| fs.setxattr(known[OsStr::new(name)], attribute(), &value, how))
}

fn removexattr(name: &'static str) -> Op {
    Box::new(move |fs, known| fs.removexattr(known[OsStr::new(name)], attribute()))
}

fn listed() -> Op {
    Box::new(move |fs, known| {
        let handle = fs.open_listing(ROOT, 0)?;
        let seen = RefCell::new(Vec::new());
        let mut from = 0;
        let done = fs.list(handle, &mut from, Detail::Attributes, &mut |entry| {
            if known.contains_key(&entry.name) {
                seen.borrow_mut().push(entry.ino);
            }
            Visit::Taken
        });
        fs.close_listing(handle);
        // A listing that fails is never answered, and the kernel forgets nothing of it.
        if done.is_ok() {
            seen.borrow().iter().for_each(|ino| fs.forget(*ino, 1));
        }
        done.map(drop)
    })
}

fn operations() -> Vec<(String, Op)> {
    let mut all: Vec<(String, Op)> = Vec::new();
    let mut add = |what: &str, op| all.push((what.to_owned(), op));
    for name in ["new".to_owned(), long("new")] {
        add("mkdir", made(name.clone(), Made::Dir(0o755)));
        add("mkdir of few bits", made(name.clone(), Made::Dir(0o100)));
        add("mknod", made(name.clone(), Made::Node(libc::S_IFIFO | 0o600, 0)));
        add("symlink", made(name.clone(), Made::Symlink(OsStr::new("target"))));
        let far: &'static str = Box::leak("t".repeat(4000).into_boxed_str());
        add("symlink far", made(name.clone(), Made::Symlink(OsStr::new(far))));
        add("create", create(name.clone()));
        add("link", link("file", name.clone()));
        for from in ["file", "empty", "full", "link"] {
            let moved = rename(from.to_owned(), name.clone(), RenameHow::NoReplace);
            add("rename to a free name", moved);
        }
    }
    for name in ["file".to_owned(), long("file"), "link".to_owned(), "far".to_owned()] {
        add("unlink", unlink(name.clone()));
        for to in [long("file"), "pipe".to_owned()].into_iter().filter(|to| *to != name) {
            add("rename over a file", rename(name.clone(), to, RenameHow::Over));
        }
        add("exchange", rename(name, "empty".to_owned(), RenameHow::Exchange));
    }
    for name in ["empty".to_owned(), long("dir")] {
        add("rmdir", rmdir(name.clone()));
        for to in ["other".to_owned(), long("other")] {
            add("rename over a directory", rename(name.clone(), to, RenameHow::Over));
        }
    }
    for name in ["file", "empty", "pipe"] {
        add("chmod", setattr(name, Change { mode: Some(0o700), ..Change::default() }));
        let to = Some(SetTime::To(Time { secs: 9, nanos: 0 }));
        add("utimens", setattr(name, Change { mtime: to, ..Change::default() }));
    }
    for (what, name) in
        [("chown", "file"), ("chown", "empty"), ("chown", "pipe"), ("chown of a link", "link")]
    {
        add(what, setattr(name, Change { uid: Some(7), gid: Some(8), ..Change::default() }));
    }
    for name in ["file", "empty", "full"] {
        for len in [3, APART] {
            add("setxattr", setxattr(name, len, XattrSet::Any));
            add("setxattr that replaces", setxattr(name, len, XattrSet::Replace));
        }
        add("removexattr", removexattr(name));
    }
    for len in [3, APART] {
        add("setxattr of the first", setxattr("other", len, XattrSet::Create));
    }
    add("list", listed());
    all
}

/// A mounted copy of the store, every name of its root looked up.
fn mounted() -> (Volume, Known) {
    let volume = Volume::mount(STORE.fork()).expect("a good volume");
    let mut names: Vec<String> =
        ["empty", "other", "full", "file", "pipe", "link", "far"].map(str::to_owned).into();
    names.extend([long("dir"), long("other"), long("file")]);
    let lookup = |name: String| {
        let ino = volume.run(|fs| fs.lookup(ROOT, OsStr::new(&name))).expect("there").attr.0.ino;
        (name.into(), ino)
    };
    let known = names.into_iter().map(lookup).collect();
    (volume, known)
}

/// Nothing is held open that nobody has open, and the kernel has to forget nothing more.
fn check_table(volume: &Volume, known: &Known, what: &str) {
    for node in volume.fs().table().all() {
        let content = node.content.read();
        let needed = content.openers > 0 || content.removals > 0;
        assert!(content.file.is_none() || needed, "{what}: inode {} is held", node.ino);
        let told = node.ino == ROOT || known.values().any(|ino| *ino == node.ino);
        assert!(told, "{what}: inode {} is kept, of which the kernel knows nothing", node.ino);
    }
}

/// How many calls of the store an operation makes when all goes well.
fn calls_of(op: &Op) -> u64 {
    let (volume, known) = mounted();
    let start = volume.sim.operations();
    volume.run(|fs| op(fs, &known)).expect("all is well");
    volume.sim.operations() - start
}

#[test]
fn an_operation_that_fails_leaves_everything_as_it_was() {
    let mut failures = 0;
    for (what, op) in operations() {
        let calls = calls_of(&op);
        // The last calls of a setattr only look at what was changed.
        let looks = match &*what {
            "chmod" | "chown" | "utimens" => 1,
            "chown of a link" => 2,
            _ => 0,
        };
        let last = calls - looks;
        for n in 1..=last {
            let (volume, known) = mounted();
            let before = of_store(&volume.sim);
            volume.sim.fail_at(n, libc::EIO);
            let failed = volume.run(|fs| op(fs, &known));
            volume.sim.clear_faults();
            // A call whose failure does not matter may fail.
            let Err(e) = failed else { continue };
            failures += 1;
            let what = format!("{what}, call {n}");
            assert_eq!(e, Errno(libc::EIO), "{what}");
            volume.fs().keyring().end_grace().expect("swept");
            assert_eq!(changed(&before, &volume.sim), Vec::<OsString>::new(), "{what}");
            check_table(&volume, &known, &what);
            assert_eq!(volume.run(|fs| op(fs, &known)), Ok(()), "{what}: again");
        }
    }
    assert!(failures > 200, "{failures} failures were seen");
}

/// What POSIX has fail, on whole and well storage.
#[test]
fn what_is_refused_leaves_everything_as_it_was() {
    let over = RenameHow::Over;
    let of = str::to_owned;
    let refused: Vec<(Op, i32)> = vec![
        (rmdir(of("full")), libc::ENOTEMPTY),
        (rmdir(of("file")), libc::ENOTDIR),
        (unlink(of("absent")), libc::ENOENT),
        (rename(of("empty"), of("full"), over), libc::ENOTEMPTY),
        (rename(of("empty"), of("file"), over), libc::ENOTDIR),
        (rename(of("file"), of("empty"), over), libc::EISDIR),
        (rename(of("file"), long("file"), RenameHow::NoReplace), libc::EEXIST),
        (rename(of("absent"), of("file"), over), libc::ENOENT),
        (rename(of("absent"), long("new"), over), libc::ENOENT),
        (rename(of("file"), of("absent"), RenameHow::Exchange), libc::ENOENT),
        (made(of("file"), Made::Dir(0o755)), libc::EEXIST),
        (made(long("file"), Made::Symlink(OsStr::new("x"))), libc::EEXIST),
        (create(of("empty")), libc::EEXIST),
        (link("file", long("dir")), libc::EEXIST),
        (link("empty", of("new")), libc::EPERM),
        (setxattr("file", 3, XattrSet::Create), libc::EEXIST),
        (setxattr("full", APART, XattrSet::Create), libc::EEXIST),
        (setxattr("other", APART, XattrSet::Replace), libc::ENODATA),
        (setxattr("pipe", 3, XattrSet::Any), libc::EPERM),
        (removexattr("pipe"), libc::EPERM),
        (removexattr("other"), libc::ENODATA),
    ];
    for (i, (op, errno)) in refused.into_iter().enumerate() {
        let (volume, known) = mounted();
        let before = of_store(&volume.sim);
        assert_eq!(volume.run(|fs| op(fs, &known)), Err(Errno(errno)), "{i}");
        assert_eq!(changed(&before, &volume.sim), Vec::<OsString>::new(), "{i}");
        check_table(&volume, &known, &format!("{i}"));
    }
}

/// Each fsync of a directory made a syncfs for every directory that was ever made in it and gone.
#[test]
fn a_sync_of_a_directory_costs_no_more_for_what_is_gone() {
    let volume = Volume::new();
    let dir = |name: &str| OsString::from(name);
    let syncs = || {
        volume.sim.moments();
        volume.run(|fs| fs.sync_dir(ROOT)).expect("synced");
        volume.sim.moments().len()
    };
    for n in 0..200 {
        let name = dir(&format!("d{n}"));
        let ino =
            volume.run(|fs| fs.make(ROOT, &name, Made::Dir(0o755), WHO)).expect("made").attr.0.ino;
        if n % 2 == 0 {
            volume.run(|fs| fs.rmdir(ROOT, &name)).expect("removed");
        } else {
            let over = |fs: &Fs| fs.rename((ROOT, &name), (ROOT, &dir("kept")), RenameHow::Over);
            volume.run(over).expect("renamed");
        }
        volume.fs().forget(ino, 1);
    }
    assert_eq!(syncs(), 2, "the directory that is left, and its parent");
    for n in 0..200 {
        let name = dir(&format!("e{n}"));
        let ino =
            volume.run(|fs| fs.make(ROOT, &name, Made::Dir(0o755), WHO)).expect("made").attr.0.ino;
        volume.fs().forget(ino, 1);
    }
    assert_eq!(syncs(), 2, "the whole filesystem, and the directory");
    assert_eq!(syncs(), 1, "nothing new is left to be synced");
}
