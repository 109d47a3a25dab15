//! `kmsfs fsck` on a simulated disk: each kind of damage is found, and nothing else; what is
//! repaired is gone after, whenever the power is cut meanwhile.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use kmsfs::disk::sim::Sim;
use kmsfs::disk::{self, Dir, FileKind, Open, XattrHow};
use kmsfs::fs::{Caller, Change, Made, XattrSet};
use kmsfs::ids::{BranchId, FileId, PageId};
use kmsfs::kms::{KeyArn, Wrapped};
use kmsfs::store::{BranchFile, Copy, DataKeys, Line, Names, Page, Store, WrapKind};
use kmsfs::upkeep::{Finding, Kind};

use crate::Raw;
use crate::simulated::{Tree, Volume, WHO, fsck};

const PAGE: usize = 4096;
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
    volume.fs().forget(made.unwrap_or_else(|e| panic!("{path}: {e:?}")).0.ino, 1);
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
            let (mut dir, mut folders) = (volume.sim.root(), Vec::new());
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
        Raw { dir: folders.iter().fold(sim.root(), open), name: entry.clone() }
    }

    fn id(&self, path: &str) -> FileId {
        FileId(self.raw(&self.sim, path).bytes()[8..24].try_into().expect("sixteen bytes"))
    }

    fn page(&self, sim: &Sim, path: &str) -> Raw {
        let page = self.id(path).page().to_string();
        Raw::in_meta(&sim.root(), &["keys", &page[..2], &page])
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
        let meta = furnished.sim.root().open_dir(OsStr::new(".kmsfs")).expect("there");
        meta.unlink(OsStr::new("volume.json")).expect("there");
        furnished.sim.root().mkdir(OsStr::new("new"), 0o755).expect("made");
        let (before_too, pending_too) = (dumped(&furnished.sim), furnished.sim.crash().count());
        assert!(found(&furnished.sim).len() >= usize::from(names == Names::Encrypted));
        assert!(before != before_too && dumped(&furnished.sim) == before_too);
        assert!(pending == 1 && furnished.sim.crash().count() == pending_too);
    }
}

/// Something done to a store.
type Deed = Box<dyn Fn(&Furnished, &Sim)>;

fn deed(what: &'static str, act: impl Fn(&Furnished, &Sim) + 'static) -> (&'static str, Deed) {
    (what, Box::new(act))
}

fn on(path: &'static str, act: impl Fn(&Raw) + 'static) -> Deed {
    Box::new(move |f, sim| act(&f.raw(sim, path)))
}

fn flip(at: usize) -> impl Fn(&Raw) {
    move |raw| raw.put(at, &[raw.bytes()[at] ^ 0x10])
}

fn change_lines(f: &Furnished, sim: &Sim, path: &str, change: impl FnOnce(&mut Vec<Line>, u16)) {
    let raw = f.page(sim, path);
    let mut lines: Vec<Line> = Page::parse(&raw.bytes()).readable().collect();
    change(&mut lines, f.id(path).slot());
    raw.set(&Page::of(&lines).encode());
}

fn contents() -> Vec<(&'static str, Deed)> {
    vec![
        ("damage header /d/f", on("d/f", flip(1))),
        ("damage header /d/f", on("d/f", flip(4))),
        ("damage header /d/f", on("d/f", flip(7))),
        ("damage key /d/f", on("d/f", flip(10))),
        ("damage records /d/f", on("d/f", flip(30))),
        ("damage records /d/f", on("d/f", flip(2 * PAGE + 5))),
        (
            "damage records /sparse",
            on("sparse", |raw| {
                let size = raw.dir.stat(&raw.name).expect("there").size as usize;
                raw.put(size / PAGE * PAGE - PAGE + 99, b"x");
            }),
        ),
        ("damage header-missing /d/f", on("d/f", |raw| raw.put(0, &[0; 24]))),
        ("damage header-missing /grown", on("grown", |raw| raw.put(3 * PAGE - 3, b"x"))),
        ("leftover size /d/f", on("d/f", |raw| raw.set_size(2 * PAGE as u64))),
        ("leftover size /empty", on("empty", |raw| raw.set_size(77))),
        (
            "damage attribute /g",
            on("g", |raw| {
                let all = raw.dir.xattrs(&raw.name).expect("listed");
                let mut value = raw.dir.xattr(&raw.name, &all[0]).expect("there");
                value[20] ^= 1;
                raw.dir.set_xattr(&raw.name, &all[0], &value, XattrHow::Any).expect("set");
            }),
        ),
        (
            "leftover attribute-unknown /d",
            on("d", |raw| {
                let name = OsStr::new("user.foreign");
                raw.dir.set_xattr(&raw.name, name, b"x", XattrHow::Any).expect("set");
            }),
        ),
        (
            "damage link-target /l",
            on("l", |raw| {
                raw.dir.unlink(&raw.name).expect("there");
                raw.dir.symlink(&raw.name, OsStr::new("/etc/passwd")).expect("made");
            }),
        ),
        deed("damage link-body-missing /ll", |f, sim| {
            let raw = f.raw(sim, "ll");
            let text = raw.dir.readlink(&raw.name).expect("a link").into_string().expect("hex");
            let body = Raw::in_meta(&sim.root(), &["links", &text[1..3], &text[1..]]);
            body.dir.unlink(&body.name).expect("there");
        }),
        deed("damage link-target /ll", |f, sim| {
            let raw = f.raw(sim, "ll");
            let text = raw.dir.readlink(&raw.name).expect("a link").into_string().expect("hex");
            flip(40)(&Raw::in_meta(&sim.root(), &["links", &text[1..3], &text[1..]]));
        }),
        deed("damage id-twice", |f, sim| {
            let bytes = f.raw(sim, "d/f").bytes();
            let empty = f.raw(sim, "empty");
            empty.set(&bytes);
        }),
    ]
}

fn sidecars() -> Vec<(&'static str, Deed)> {
    vec![
        deed("damage key /d/f", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| lines.retain(|l| l.slot != slot));
        }),
        deed("damage key /d/f", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| {
                let line = lines.iter_mut().find(|l| l.slot == slot).expect("there");
                line.kind = WrapKind::Master(KeyArn("arn:elsewhere:key/1".to_owned()));
            });
        }),
        deed("damage key /d/f", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| {
                lines.iter_mut().find(|l| l.slot == slot).expect("there").check[0] ^= 1;
            });
        }),
        deed("damage lines-same-slot .kmsfs/keys/", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| {
                let twice = lines.iter().find(|l| l.slot == slot).expect("there").clone();
                lines.push(twice);
            });
        }),
        deed("damage lines-damaged .kmsfs/keys/", |f, sim| {
            let page = f.page(sim, "d/f");
            page.set(&[&page.bytes()[..], b"not a line\n"].concat());
        }),
        deed("leftover lines-unused .kmsfs/keys/", |f, sim| {
            let master = KeyArn("arn:of:nobody".to_owned());
            let kind = WrapKind::Master(master);
            let line = Line { slot: 9, kind, key: Wrapped(vec![1; 60]), check: [1; 32] };
            let store = Store::open(sim.root()).expect("opened");
            store.add_page(PageId([3; 14]), &Page::of(&[line])).expect("added");
            let _ = f;
        }),
        deed("leftover page-empty .kmsfs/keys/", |_, sim| {
            let page = PageId([3; 14]).to_string();
            let raw = Raw::in_meta(&sim.root(), &["keys", &page[..2], &page]);
            raw.dir.open(&raw.name, Open::Create(0o600)).expect("made");
        }),
        deed("leftover temporary-file .kmsfs/keys/07/x.tmp-1", |_, sim| {
            let raw = Raw::in_meta(&sim.root(), &["keys", "07", "x.tmp-1"]);
            raw.dir.open(&raw.name, Open::Create(0o600)).expect("made");
        }),
        deed("leftover unknown-entry .kmsfs/branch/note", |_, sim| {
            let raw = Raw::in_meta(&sim.root(), &["branch", "note"]);
            raw.dir.open(&raw.name, Open::Create(0o600)).expect("made");
        }),
        deed("leftover branch-unused .kmsfs/branch/", |_, sim| {
            let file = BranchFile { master: KeyArn("a".to_owned()), key: Wrapped(vec![1]) };
            let store = Store::open(sim.root()).expect("opened");
            store.write_branch(BranchId([9; 16]), &file).expect("written");
        }),
        deed("leftover link-body-unused .kmsfs/links/", |_, sim| {
            let store = Store::open(sim.root()).expect("opened");
            store.add_link_body(kmsfs::ids::LinkId([9; 16]), b"body").expect("written");
        }),
        deed("damage folder-missing .kmsfs/links/", |_, sim| {
            let links = Raw::in_meta(&sim.root(), &["links", "x"]).dir;
            let is_empty = |name: &OsString| {
                disk::names(&*links.open_dir(name).expect("there")).expect("listed").is_empty()
            };
            let empty = disk::names(&*links).expect("listed").into_iter().find(is_empty);
            links.rmdir(&empty.expect("most are")).expect("empty");
        }),
    ]
}

fn trees() -> Vec<(&'static str, Deed)> {
    vec![
        (
            "damage name ",
            on("g", |raw| {
                let new = OsStr::new("stranger");
                raw.dir.rename(&raw.name, &*raw.dir, new, disk::Replace::Never).expect("renamed");
            }),
        ),
        (
            "damage name ",
            on("d/f", |raw| {
                let top = OsStr::new("..stranger");
                raw.dir.rename(&raw.name, &*raw.dir, top, disk::Replace::Never).expect("renamed");
            }),
        ),
        deed("damage name-record-missing ", |f, sim| {
            let raw = f.raw(sim, &format!("d/{LONG}"));
            let mut record = raw.name.clone();
            record.push(".name");
            raw.dir.unlink(&record).expect("there");
        }),
        deed("leftover name-record-unused ", |f, sim| {
            let raw = f.raw(sim, &format!("d/{LONG}"));
            let mut record = raw.name.clone();
            record.push(".name");
            let text = raw.dir.readlink(&record).expect("there");
            let hash = format!("+{}.name", "A".repeat(43));
            f.raw(sim, "g").dir.symlink(OsStr::new(&hash), &text).expect("made");
        }),
        (
            "damage directory-id-missing /d",
            on("d", |raw| {
                let dir = raw.dir.open_dir(&raw.name).expect("a folder");
                dir.unlink(OsStr::new(".kmsfs.dir")).expect("there");
            }),
        ),
        (
            "damage directory-id-damaged /d",
            on("d", |raw| {
                let dir = raw.dir.open_dir(&raw.name).expect("a folder");
                dir.unlink(OsStr::new(".kmsfs.dir")).expect("there");
                dir.symlink(OsStr::new(".kmsfs.dir"), OsStr::new("x")).expect("made");
            }),
        ),
        (
            "leftover directory-fresh /d/e",
            on("d/e", |raw| {
                let dir = raw.dir.open_dir(&raw.name).expect("a folder");
                dir.unlink(OsStr::new(".kmsfs.dir")).expect("there");
            }),
        ),
        deed("damage id-twice /d/e", |f, sim| {
            let open = |path| {
                let raw = f.raw(sim, path);
                raw.dir.open_dir(&raw.name).expect("a folder")
            };
            let (d, e, id) = (open("d"), open("d/e"), OsStr::new(".kmsfs.dir"));
            e.unlink(id).expect("there");
            e.symlink(id, &d.readlink(id).expect("there")).expect("made");
        }),
    ]
}

fn copies() -> Vec<(&'static str, Deed)> {
    fn copy(sim: &Sim, name: &str) -> Raw {
        Raw::in_meta(&sim.root(), &[name])
    }
    fn gone(sim: &Sim, name: &str) {
        let raw = copy(sim, name);
        raw.dir.unlink(&raw.name).expect("there");
    }
    fn member(raw: &Raw, name: &str, at: usize) {
        let text = String::from_utf8(raw.bytes()).expect("JSON");
        let at = text.find(&format!("\"{name}\": \"")).expect("there") + name.len() + 5 + at;
        let new = if text.as_bytes()[at] == b'7' { b"8" } else { b"7" };
        raw.put(at, new);
    }
    vec![
        deed("damage volume-missing .kmsfs/volume.json", |_, sim| gone(sim, "volume.json")),
        deed("leftover volume-copy-missing .kmsfs/volume.json.bak", |_, sim| {
            gone(sim, "volume.json.bak");
        }),
        deed("damage volume-damaged .kmsfs/volume.json", |_, sim| {
            copy(sim, "volume.json").put(0, b"x");
        }),
        deed("damage volume-damaged .kmsfs/volume.json.bak", |_, sim| {
            copy(sim, "volume.json.bak").put(0, b"x");
        }),
        deed("damage volume-wrong .kmsfs/volume.json", |_, sim| {
            member(&copy(sim, "volume.json"), "mac", 5);
        }),
        deed("damage volume-wrong .kmsfs/volume.json", |_, sim| {
            member(&copy(sim, "volume.json"), "key", 70);
        }),
        deed("damage volume-wrong .kmsfs/volume.json", |_, sim| {
            member(&copy(sim, "volume.json"), "canary", 70);
        }),
        deed("damage volume-wrong .kmsfs/volume.json.bak", |_, sim| {
            member(&copy(sim, "volume.json.bak"), "key", 70);
        }),
        deed("leftover volume-copy-old .kmsfs/volume.json.bak", |_, sim| {
            let store = Store::open(sim.root()).expect("opened");
            let mut old = store.read_volume().expect("whole");
            old.wrap.asked = kmsfs::kms::KeyRef("alias/before".to_owned());
            store.write_volume_copy(Copy::Second, &old).expect("written");
        }),
    ]
}

/// What is told besides: the lines that lost their file, and what lies in a directory that lost
/// its names.
fn is_consequence(deed: &str, word: &str) -> bool {
    let lines = ["key", "header", "header-missing", "id-twice"].iter();
    let loses_lines = lines.clone().any(|w| deed.starts_with(&format!("damage {w} ")));
    (loses_lines && word.starts_with("leftover lines-unused"))
        || (deed.contains("id-twice") && word.starts_with("damage name "))
        || (deed.contains("link-target /l") && word.starts_with("leftover link-body"))
}

#[test]
fn each_damage_is_found_and_nothing_else() {
    let furnished = Furnished::new(Names::Encrypted, DataKeys::PerFile);
    let all = [contents(), sidecars(), trees(), copies()].into_iter().flatten();
    for (wanted, act) in all {
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
        let dir = Raw::in_meta(&sim.root(), &["branch", "x"]).dir;
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
    let all = [contents(), sidecars(), trees(), copies()].into_iter().flatten();
    let mut repaired = 0;
    for (wanted, act) in all {
        let sim = furnished.sim.fork();
        act(&furnished, &sim);
        let (job, checked, _) = fsck(&sim).expect("opened");
        if checked.repairable() == 0 {
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
    assert_eq!(repaired, 17, "each that can be repaired");
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
