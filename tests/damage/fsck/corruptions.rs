//! What is done to a store, each with what is to be found then.

use std::ffi::{OsStr, OsString};

use kmsfs::disk::sim::Sim;
use kmsfs::disk::{self, Open, XattrHow};
use kmsfs::fs::XattrSet;
use kmsfs::ids::{BranchId, LinkId, PageId};
use kmsfs::kms::{KeyArn, KeyRef, Wrapped};
use kmsfs::store::{BranchFile, Copy, Line, Page, Store, WrapKind};

use super::{Furnished, LONG};
use crate::Raw;
use crate::simulated::Volume;

const PAGE: usize = 4096;

/// Something done to a store.
pub type Corruption = Box<dyn Fn(&Furnished, &Sim)>;

fn corruption(
    what: &'static str,
    act: impl Fn(&Furnished, &Sim) + 'static,
) -> (&'static str, Corruption) {
    (what, Box::new(act))
}

pub fn on(path: &'static str, act: impl Fn(&Raw) + 'static) -> Corruption {
    Box::new(move |f, sim| act(&f.raw(sim, path)))
}

pub fn flip(at: usize) -> impl Fn(&Raw) {
    move |raw| raw.put(at, &[raw.bytes()[at] ^ 0x10])
}

fn change_lines(f: &Furnished, sim: &Sim, path: &str, change: impl FnOnce(&mut Vec<Line>, u16)) {
    let raw = f.page(sim, path);
    let mut lines: Vec<Line> = Page::parse(&raw.bytes()).readable().collect();
    change(&mut lines, f.id(path).slot());
    raw.set(&Page::of(&lines).encode());
}

const BLOCK: &str = "user.kmsfs";

/// Sets the one attribute of /g through a mount.
fn set_note(sim: &Sim, value: &[u8]) {
    let volume = Volume::mount(sim.clone()).expect("it opens");
    let set =
        |ino| volume.run(|fs| fs.setxattr(ino, OsStr::new("user.note"), value, XattrSet::Any));
    volume.at("g", set).expect("set");
    volume.unmount();
}

/// Has the attribute of /g lie apart from its block, and answers what it is called there.
fn with_one_apart(f: &Furnished, sim: &Sim) -> (disk::File, OsString) {
    set_note(sim, &[7; 5000]);
    let pin = f.raw(sim, "g").pin();
    let apart = pin.xattrs().expect("listed").into_iter().find(|name| name != BLOCK);
    (pin, apart.expect("it is too large for the block"))
}

fn records() -> Vec<(&'static str, Corruption)> {
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
                raw.pin().set_xattr(&all[0], &value, XattrHow::Any).expect("set");
            }),
        ),
        corruption("damage attribute /g", |f, sim| {
            let (pin, apart) = with_one_apart(f, sim);
            let mut value = pin.xattr(&apart).expect("there");
            value[20] ^= 1;
            pin.set_xattr(&apart, &value, XattrHow::Any).expect("set");
        }),
        corruption("damage attribute-block-missing /g", |f, sim| {
            let (pin, _) = with_one_apart(f, sim);
            pin.remove_xattr(OsStr::new(BLOCK)).expect("there");
        }),
        corruption("leftover attribute-hidden /g", |f, sim| {
            // As it is after a power cut, just before the old value went.
            let (pin, apart) = with_one_apart(f, sim);
            let value = pin.xattr(&apart).expect("there");
            set_note(sim, b"value");
            pin.set_xattr(&apart, &value, XattrHow::Create).expect("it was gone");
        }),
        (
            "leftover attribute-unknown /d",
            on("d", |raw| {
                let name = OsStr::new("user.foreign");
                raw.pin().set_xattr(name, b"x", XattrHow::Any).expect("set");
            }),
        ),
    ]
}

fn links() -> Vec<(&'static str, Corruption)> {
    vec![
        (
            "damage link-target /l",
            on("l", |raw| {
                raw.dir.unlink(&raw.name).expect("there");
                raw.dir.symlink(&raw.name, OsStr::new("/etc/passwd")).expect("made");
            }),
        ),
        corruption("damage link-body-missing /ll", |f, sim| {
            let raw = f.raw(sim, "ll");
            let text = raw.dir.readlink(&raw.name).expect("a link").into_string().expect("hex");
            let body = Raw::in_store(&sim.root(), &["links", &text[1..3], &text[1..]]);
            body.dir.unlink(&body.name).expect("there");
        }),
        corruption("damage link-target /ll", |f, sim| {
            let raw = f.raw(sim, "ll");
            let text = raw.dir.readlink(&raw.name).expect("a link").into_string().expect("hex");
            flip(40)(&Raw::in_store(&sim.root(), &["links", &text[1..3], &text[1..]]));
        }),
        corruption("damage id-twice", |f, sim| {
            let bytes = f.raw(sim, "d/f").bytes();
            let empty = f.raw(sim, "empty");
            empty.set(&bytes);
        }),
    ]
}

fn lines() -> Vec<(&'static str, Corruption)> {
    vec![
        corruption("damage key /d/f", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| lines.retain(|l| l.slot != slot));
        }),
        corruption("damage key /d/f", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| {
                let line = lines.iter_mut().find(|l| l.slot == slot).expect("there");
                line.kind = WrapKind::Master(KeyArn("arn:elsewhere:key/1".to_owned()));
            });
        }),
        corruption("damage key /d/f", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| {
                lines.iter_mut().find(|l| l.slot == slot).expect("there").check[0] ^= 1;
            });
        }),
        corruption("damage lines-same-slot keys/", |f, sim| {
            change_lines(f, sim, "d/f", |lines, slot| {
                let twice = lines.iter().find(|l| l.slot == slot).expect("there").clone();
                lines.push(twice);
            });
        }),
        corruption("damage lines-damaged keys/", |f, sim| {
            let page = f.page(sim, "d/f");
            page.set(&[&page.bytes()[..], b"not a line\n"].concat());
        }),
        corruption("leftover lines-unused keys/", |f, sim| {
            let master = KeyArn("arn:of:nobody".to_owned());
            let kind = WrapKind::Master(master);
            let key = Wrapped(vec![1; 60]);
            let line = Line { slot: 9, kind, key, second: None, check: [1; 32] };
            let store = Store::open(sim.root()).expect("opened");
            store.add_page(PageId([3; 14]), &Page::of(&[line])).expect("added");
            let _ = f;
        }),
        corruption("leftover page-empty keys/", |_, sim| {
            let page = PageId([3; 14]).to_string();
            let raw = Raw::in_store(&sim.root(), &["keys", &page[..2], &page]);
            raw.dir.open(&raw.name, Open::Create(0o600)).expect("made");
        }),
    ]
}

fn meta() -> Vec<(&'static str, Corruption)> {
    vec![
        corruption("leftover temporary-file keys/07/x.tmp-1", |_, sim| {
            let raw = Raw::in_store(&sim.root(), &["keys", "07", "x.tmp-1"]);
            raw.dir.open(&raw.name, Open::Create(0o600)).expect("made");
        }),
        corruption("leftover unknown-entry keys/branch/note", |_, sim| {
            let raw = Raw::in_store(&sim.root(), &["keys", "branch", "note"]);
            raw.dir.open(&raw.name, Open::Create(0o600)).expect("made");
        }),
        corruption("leftover branch-unused keys/branch/", |_, sim| {
            let file = BranchFile::by_kms(KeyArn("a".to_owned()), Wrapped(vec![1]));
            let store = Store::open(sim.root()).expect("opened");
            store.write_branch(BranchId([9; 16]), &file).expect("written");
        }),
        corruption("leftover link-body-unused links/", |_, sim| {
            let store = Store::open(sim.root()).expect("opened");
            store.add_link_body(LinkId([9; 16]), b"body").expect("written");
        }),
        corruption("damage folder-missing links/", |_, sim| {
            let links = Raw::in_store(&sim.root(), &["links", "x"]).dir;
            let is_empty = |name: &OsString| {
                disk::names(&*links.open_dir(name).expect("there")).expect("listed").is_empty()
            };
            let empty = disk::names(&*links).expect("listed").into_iter().find(is_empty);
            links.rmdir(&empty.expect("most are")).expect("empty");
        }),
    ]
}

fn trees() -> Vec<(&'static str, Corruption)> {
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
        (
            "leftover stranger files/",
            on("g", |raw| {
                let file = raw.dir.open(OsStr::new(".DS_Store"), Open::Create(0o644));
                file.expect("made").write_at(b"Bud1", 0).expect("written");
            }),
        ),
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
        corruption("damage id-twice /d/e", |f, sim| {
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

fn long_names() -> Vec<(&'static str, Corruption)> {
    vec![
        corruption("damage name-record-missing ", |f, sim| {
            let raw = f.raw(sim, &format!("d/{LONG}"));
            let mut record = raw.name.clone();
            record.push(".name");
            raw.dir.unlink(&record).expect("there");
        }),
        corruption("leftover name-record-unused ", |f, sim| {
            let raw = f.raw(sim, &format!("d/{LONG}"));
            let mut record = raw.name.clone();
            record.push(".name");
            let text = raw.dir.readlink(&record).expect("there");
            let hash = format!("+{}.name", "A".repeat(43));
            f.raw(sim, "g").dir.symlink(OsStr::new(&hash), &text).expect("made");
        }),
    ]
}

fn copies() -> Vec<(&'static str, Corruption)> {
    fn copy(sim: &Sim, name: &str) -> Raw {
        Raw::in_store(&sim.root(), &[name])
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
        corruption("damage volume-missing volume.json", |_, sim| gone(sim, "volume.json")),
        corruption("leftover volume-copy-missing volume.json.bak", |_, sim| {
            gone(sim, "volume.json.bak");
        }),
        corruption("damage volume-damaged volume.json", |_, sim| {
            copy(sim, "volume.json").put(0, b"x");
        }),
        corruption("damage volume-damaged volume.json.bak", |_, sim| {
            copy(sim, "volume.json.bak").put(0, b"x");
        }),
        corruption("damage volume-wrong volume.json", |_, sim| {
            member(&copy(sim, "volume.json"), "mac", 5);
        }),
        corruption("damage volume-wrong volume.json", |_, sim| {
            member(&copy(sim, "volume.json"), "key", 70);
        }),
        corruption("damage volume-wrong volume.json", |_, sim| {
            member(&copy(sim, "volume.json"), "canary", 70);
        }),
        corruption("damage volume-wrong volume.json.bak", |_, sim| {
            member(&copy(sim, "volume.json.bak"), "key", 70);
        }),
        // Where new data keys come from, as whoever can write the store would have it.
        corruption("damage volume-unproven volume.json", |_, sim| {
            let store = Store::open(sim.root()).expect("opened");
            let mut edited = store.read_volume().expect("whole");
            edited.wrap.source.asked = KeyRef("alias/theirs".to_owned());
            store.write_volume(&edited).expect("written");
        }),
        corruption("damage volume-wrong volume.json", |_, sim| {
            let store = Store::open(sim.root()).expect("opened");
            let mut edited = store.read_volume().expect("whole");
            edited.wrap.source.asked = KeyRef("alias/theirs".to_owned());
            store.write_volume_copy(Copy::First, &edited).expect("written");
        }),
        corruption("leftover volume-copy-old volume.json.bak", |_, sim| {
            let store = Store::open(sim.root()).expect("opened");
            let mut old = store.read_volume().expect("whole");
            old.wrap.source.asked = KeyRef("alias/before".to_owned());
            store.write_volume_copy(Copy::Second, &old).expect("written");
        }),
    ]
}

/// All of them.
pub fn all() -> impl Iterator<Item = (&'static str, Corruption)> {
    [records(), links(), lines(), meta(), trees(), long_names(), copies()].into_iter().flatten()
}
