//! `user.*` attributes: every byte of an attribute block, and of one that lies apart.

use std::ffi::OsStr;

use kmsfs::disk::XattrHow;
use kmsfs::fs::{NamesApart, XattrSet};

use crate::Damaged;

const BLOCK: &str = "user.kmsfs";
const SMALL: &str = "user.small";
const LARGE: &str = "user.large";

struct Attributes(Damaged);

impl Attributes {
    fn new() -> Self {
        let damaged = Damaged::new();
        let all = Self(damaged);
        for (name, value) in [(SMALL, &b"value"[..]), (LARGE, &[7; 5000])] {
            assert_eq!(all.set(name, value), Ok(()));
        }
        let trusted = OsStr::new("trusted.other");
        all.0.file("f").pin().set_xattr(trusted, b"x", XattrHow::Any).expect("set");
        all
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, i32> {
        let volume = &self.0.volume;
        let get = |ino| volume.run(|fs| fs.getxattr(ino, OsStr::new(name)));
        volume.at("f", get).map_err(|e| e.0)
    }

    fn set(&self, name: &str, value: &[u8]) -> Result<(), i32> {
        let volume = &self.0.volume;
        let set = |ino| volume.run(|fs| fs.setxattr(ino, OsStr::new(name), value, XattrSet::Any));
        volume.at("f", set).map_err(|e| e.0)
    }

    fn remove(&self, name: &str) -> Result<(), i32> {
        let volume = &self.0.volume;
        let remove = |ino| volume.run(|fs| fs.removexattr(ino, OsStr::new(name)));
        volume.at("f", remove).map_err(|e| e.0)
    }

    fn listed(&self) -> Vec<String> {
        let volume = &self.0.volume;
        let mut known = NamesApart::default();
        let list = volume.at("f", |ino| volume.run(|fs| fs.listxattr(ino, &mut known)));
        let list = String::from_utf8(list.expect("listed")).expect("names of the test");
        let mut names: Vec<String> = list.split_terminator('\0').map(str::to_owned).collect();
        names.sort();
        names
    }

    /// Flips one bit of each byte in turn of an attribute on disk.
    fn flip_each(&self, name: &OsStr, see: impl Fn()) {
        let pin = self.0.file("f").pin();
        let value = pin.xattr(name).expect("there");
        for i in 0..value.len() {
            let mut bent = value.clone();
            bent[i] ^= 1 << (i % 8);
            pin.set_xattr(name, &bent, XattrHow::Any).expect("set");
            see();
        }
        for cut in 0..value.len().min(100) {
            pin.set_xattr(name, &value[..cut], XattrHow::Any).expect("set");
            see();
        }
        pin.set_xattr(name, &value, XattrHow::Any).expect("set");
    }
}

/// What it says is unknown then, of every name, and it is never written over: what else it holds
/// would be lost. Attributes of other kinds are not hidden.
#[test]
fn a_damaged_block_is_told_and_kept() {
    let all = Attributes::new();
    all.flip_each(OsStr::new(BLOCK), || {
        for name in [SMALL, LARGE, "user.absent"] {
            assert_eq!(all.get(name), Err(libc::EBADMSG));
        }
        assert_eq!(all.listed(), ["trusted.other"]);
    });
    assert_eq!((all.get(SMALL), all.get(LARGE)), (Ok(b"value".to_vec()), Ok(vec![7; 5000])));
    assert_eq!(all.listed(), ["trusted.other", LARGE, SMALL]);
    let pin = all.0.file("f").pin();
    let mut bytes = pin.xattr(OsStr::new(BLOCK)).expect("there");
    bytes[30] ^= 1;
    pin.set_xattr(OsStr::new(BLOCK), &bytes, XattrHow::Any).expect("set");
    for outcome in [all.set(SMALL, b"new"), all.set("user.new", b""), all.remove(SMALL)] {
        assert_eq!(outcome, Err(libc::EBADMSG));
    }
    assert_eq!(pin.xattr(OsStr::new(BLOCK)).expect("there"), bytes);
}

/// It costs itself alone, and can be replaced.
#[test]
fn a_damaged_attribute_that_lies_apart_costs_itself() {
    let all = Attributes::new();
    let pin = all.0.file("f").pin();
    let names = pin.xattrs().expect("listed");
    let apart = names.into_iter().find(|n| n.len() > BLOCK.len() + 1 && n != "trusted.other");
    let apart = apart.expect("5,000 bytes are not in the block");
    all.flip_each(&apart, || {
        assert_eq!((all.get(SMALL), all.get(LARGE)), (Ok(b"value".to_vec()), Err(libc::EBADMSG)));
        assert_eq!(all.listed(), ["trusted.other", SMALL]);
    });
    pin.set_xattr(&apart, b"nothing", XattrHow::Any).expect("set");
    assert_eq!((all.set(LARGE, b"small"), all.get(LARGE)), (Ok(()), Ok(b"small".to_vec())));
    assert_eq!(pin.xattr(&apart).map_err(|e| e.raw_os_error()), Err(Some(libc::ENODATA)));
}
