//! Long operations work in pieces: on a slow store none of them asks for more in one piece than
//! a piece has time for, however large the file or the folder is. A lock waits for one piece of
//! each request, so this is what bounds it.

use std::ffi::OsStr;
use std::time::Duration;

use kmsfs::disk::{Entry, Open, XattrHow};
use kmsfs::fs::{
    Change, Detail, Errno, Fail, Fs, Made, NamesApart, OpenFor, Outcome, ROOT, Reach, Reached,
    RenameHow, Sought, SyncWhat, Visit,
};

use crate::simulated::{self, Volume, WHO};

/// What each of the store's calls takes: a piece of 20 ms has time for ten.
const CALL: Duration = Duration::from_millis(2);
/// Calls of the store in one piece: those ten, and what a single step of any operation needs.
const MOST: u64 = 24;
/// Records of the large file, and entries of the large folder.
const MANY: usize = 600;

/// Runs an operation to its end as a mount does, and answers how many pieces it took.
fn in_pieces<T>(v: &Volume, what: &str, mut op: impl FnMut(&Fs) -> Outcome<T>) -> (T, usize) {
    for pieces in 1.. {
        let before = v.sim.operations();
        let outcome = op(v.fs());
        let calls = v.sim.operations() - before;
        assert!(calls <= MOST, "{what}: {calls} calls of the store in piece {pieces}");
        match outcome {
            Ok(done) => return (done, pieces),
            Err(Fail::Unfinished) => {}
            Err(Fail::Park(want)) => v.fs().keyring().supply(want).expect("there is a key"),
            Err(Fail::Errno(Errno(e))) => panic!("{what}: errno {e}"),
        }
    }
    unreachable!("it has returned")
}

fn ino(v: &Volume, parent: u64, name: &str) -> u64 {
    in_pieces(v, "lookup", |fs| fs.lookup(parent, OsStr::new(name))).0.attr.0.ino
}

#[test]
fn no_piece_of_an_operation_is_long() {
    let v = Volume::new();
    let size = MANY * 4068;
    v.create("large").expect("made");
    v.write("large", 0, &vec![7; size]).expect("written");
    v.create("copy").expect("made");
    v.create("sparse").expect("made");
    v.run(|fs| fs.make(ROOT, OsStr::new("many"), Made::Dir(0o755), WHO)).expect("made");
    for n in 0..MANY {
        v.create(&format!("many/{n}")).expect("made");
    }
    v.sim.slow(CALL);

    let end = size as u64;
    let [large, copy, sparse] = ["large", "copy", "sparse"].map(|name| ino(&v, ROOT, name));
    for file in [large, copy, sparse] {
        in_pieces(&v, "open", |fs| fs.open(file, OpenFor::Writing));
    }
    for sought in [Sought::Hole, Sought::Data] {
        let mut from = 1;
        in_pieces(&v, "seek", |fs| match fs.seek(large, &mut from, sought) {
            Ok(_) => Ok(()),
            other => other.map(drop),
        });
    }
    let mut done = 0;
    while done < end {
        let copied = in_pieces(&v, "copy", |fs| fs.copy((large, done), (copy, done), end - done));
        assert!(copied.0 > 0, "it goes on");
        done += copied.0;
    }
    let mut at = 100;
    in_pieces(&v, "allocate", |fs| fs.allocate(copy, &mut at, 1 << 40, Reach::KeepSize));
    let mut at = 100;
    in_pieces(&v, "zero", |fs| fs.zero(copy, &mut at, end - 100, Reach::Extend));
    in_pieces(&v, "read", |fs| fs.read(large, 5, &mut vec![0; 1 << 20]));
    in_pieces(&v, "write", |fs| fs.write(large, 5, &vec![1; 1 << 20]));
    let cut = Change { size: Some(12_345), ..Change::default() };
    in_pieces(&v, "truncate", |fs| fs.setattr(large, &cut));
    in_pieces(&v, "fsync", |fs| fs.fsync(large, SyncWhat::All));

    let many = ino(&v, ROOT, "many");
    for detail in [Detail::Names, Detail::Attributes] {
        let (handle, _) = in_pieces(&v, "opendir", |fs| fs.open_listing(many, 0));
        let (mut listed, mut from) = (0, 0);
        let mut reached = Reached::More;
        while reached == Reached::More {
            (reached, _) = in_pieces(&v, "list", |fs| {
                fs.list(handle, &mut from, detail, &mut |entry| {
                    listed += usize::from(entry.name != "." && entry.name != "..");
                    Visit::Taken
                })
            });
        }
        assert_eq!(listed, MANY, "{detail:?}");
        v.fs().close_listing(handle);
    }
    for n in 0..40 {
        let name = format!("folder-{n}");
        let name = OsStr::new(&name);
        in_pieces(&v, "mkdir", |fs| fs.make(ROOT, name, Made::Dir(0o755), WHO));
    }
    in_pieces(&v, "fsync of a folder", |fs| fs.sync_dir(ROOT));
    let value = vec![7; 4000];
    in_pieces(&v, "setxattr", |fs| fs.setxattr(copy, OsStr::new("user.a"), &value, XattrHow::Any));
    for n in 0..MANY {
        // Those after the first lie apart.
        let name = format!("user.{n}");
        let set = |fs: &Fs| fs.setxattr(copy, OsStr::new(&name), &value[..900], XattrHow::Any);
        in_pieces(&v, "setxattr", set);
    }
    let mut known = NamesApart::default();
    let (list, pieces) = in_pieces(&v, "listxattr", |fs| fs.listxattr(copy, &mut known));
    assert_eq!(list.iter().filter(|b| **b == 0).count(), MANY + 1);
    assert!(pieces > 10, "{pieces} pieces");
    in_pieces(&v, "removexattr", |fs| fs.removexattr(copy, OsStr::new("user.7")));
    let how = RenameHow::Over;
    let (a, b) = (OsStr::new("copy"), OsStr::new("large"));
    in_pieces(&v, "rename", |fs| fs.rename((ROOT, a), (ROOT, b), how));
    in_pieces(&v, "unlink", |fs| fs.unlink(ROOT, b));
    let folders = [OsStr::new("folder-0"), OsStr::new("folder-1")];
    in_pieces(&v, "rename over a folder", |fs| {
        fs.rename((ROOT, folders[0]), (ROOT, folders[1]), how)
    });
    in_pieces(&v, "rmdir", |fs| fs.rmdir(ROOT, folders[1]));
}

/// The kernel asks for capabilities and ACLs all the time, and programs for attributes that are not
/// there: what that costs is pinned.
#[test]
fn a_look_at_attributes_takes_few_calls_of_the_store() {
    let v = Volume::new();
    v.create("bare").expect("made");
    v.create("some").expect("made");
    let [bare, some] = ["bare", "some"].map(|name| ino(&v, ROOT, name));
    let set = |fs: &Fs| fs.setxattr(some, OsStr::new("user.a"), b"value", XattrHow::Any);
    in_pieces(&v, "setxattr", set);
    let calls = |op: &dyn Fn(&Fs) -> Outcome<()>| {
        let before = v.sim.operations();
        let _ = op(v.fs());
        v.sim.operations() - before
    };
    let get = |file, name: &'static str| calls(&|fs| fs.getxattr(file, OsStr::new(name)).map(drop));
    let list = |file| calls(&|fs| fs.listxattr(file, &mut NamesApart::default()).map(drop));
    // The attribute, and whose it is.
    for (file, name) in [
        (bare, "security.capability"),
        (some, "system.posix_acl_access"),
        (bare, "user.a"),
        (some, "user.a"),
        (some, "user.absent"),
    ] {
        assert_eq!(get(file, name), 2, "{name}");
    }
    assert_eq!((list(bare), list(some)), (2, 4));
}

/// A store that was copied without its holes has zeros as data where a file without a key has
/// holes: they are looked at before the file gets its key, in pieces, and no key is lost.
#[test]
fn zeros_of_a_file_without_a_key_are_looked_at_in_pieces() {
    let v = Volume::new();
    v.create("zeros").expect("made");
    let size = (MANY * 8 * 4068) as u64;
    let grown = Change { size: Some(size), ..Change::default() };
    v.at("zeros", |ino| v.run(|fs| fs.setattr(ino, &grown))).expect("grown");
    let file = ino(&v, ROOT, "zeros");
    let root = simulated::tree(&v.sim);
    let mut on_disk = None;
    let found = |entry: Entry| {
        on_disk = (entry.ino == file).then_some(entry.name);
        on_disk.is_none()
    };
    root.list(0, &mut { found }).expect("listed");
    let raw = root.open(&on_disk.expect("it has a name"), Open::ReadWrite).expect("opened");
    let zeros = vec![0; usize::try_from(raw.size().expect("there")).expect("small")];
    raw.write_at(&zeros, 0).expect("written");
    in_pieces(&v, "open", |fs| fs.open(file, OpenFor::Writing));
    v.sim.slow(CALL);
    let pooled = || v.fs().keyring().counts().pooled;
    let ((), pieces) = in_pieces(&v, "the first write", |fs| fs.write(file, 9, b"x"));
    assert!(pieces > 3, "{pieces} pieces");
    let left = pooled();
    in_pieces(&v, "the second write", |fs| fs.write(file, 9, b"x"));
    assert_eq!(pooled(), left, "one key for one file");
}
