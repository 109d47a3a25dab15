//! Format version 2, byte for byte: `tests/vectors/v2.json` was made by a second implementation
//! of docs/FORMAT.md, in another language and on another library, and so was `v2-recovery.json`,
//! with an age of its own. They never change.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use kmsfs::content::{
    ContentCipher, FirstPage, Header, Opened, capacity, check, disk_size, parse_header, plain_size,
};
use kmsfs::ids::{BranchId, DirId, FileId, LinkId, VolumeId};
use kmsfs::keys::{BranchKey, SealedOf, is_own_seal};
use kmsfs::names::{self, DiskName, LinkText, VolumeKeys, XattrBlock};
use kmsfs::recovery::Identities;
use kmsfs::secret::Key;
use kmsfs::store::{BranchFile, Line, Page, Removed, VolumeFile};
use serde_json::Value;
use sha2::{Digest, Sha256};

struct Vectors(Value);

impl Vectors {
    fn load() -> Self {
        let text = include_str!("vectors/v2.json");
        Self(serde_json::from_str(text).expect("the vectors are JSON"))
    }

    fn recovery() -> Self {
        let text = include_str!("vectors/v2-recovery.json");
        Self(serde_json::from_str(text).expect("the vectors are JSON"))
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0[name].as_array().expect("a list")
    }

    fn volume(&self) -> VolumeId {
        VolumeId(array(&self.0["volume"]))
    }

    fn file(&self) -> FileId {
        FileId(array(&self.0["file"]))
    }

    fn key(&self, name: &str) -> Key {
        Key::from_slice(&hex(&self.0[name])).expect("32 bytes")
    }

    fn cipher(&self) -> ContentCipher {
        ContentCipher::new(&self.key("data_key"), self.volume(), self.file())
    }

    fn volume_keys(&self) -> VolumeKeys {
        VolumeKeys::derive(&self.key("volume_key"), self.volume())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER_PERMISSIVE.decode(text(value).as_bytes()).expect("hex")
}

fn array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().expect("of that length")
}

#[test]
fn header_check_and_sizes() {
    let v = Vectors::load();
    let header = Header { file: v.file() };
    assert_eq!(header.encode().to_vec(), hex(&v.0["header"]));
    assert_eq!(parse_header(&hex(&v.0["header"])), Ok(FirstPage::Keyed(header)));
    assert_eq!(
        (v.file().slot(), v.file().page().to_string()),
        (5, "606162636465666768696a6b6c6d".to_owned())
    );
    assert_eq!(check(&v.key("data_key"), v.volume(), v.file()), array(&v.0["check"]));
    for pair in v.list("sizes") {
        let (plain, disk) = (number(&pair[0]), number(&pair[1]));
        assert_eq!((disk_size(plain), plain_size(disk)), (disk, plain));
    }
}

#[test]
fn records() {
    let v = Vectors::load();
    let nonce = array(&v.0["nonce"]);
    for r in v.list("records") {
        let (record, len) = (number(&r["record"]), number(&r["len"]));
        let plain = hex(&r["byte"]).repeat(usize::try_from(len).expect("small"));
        let mut page = vec![0xee; 4096];
        v.cipher().seal(record, &plain, &mut page, nonce);
        assert_eq!(HEXLOWER.encode(&page[..64]), text(&r["first"]));
        assert_eq!(HEXLOWER.encode(&page[4064..]), text(&r["last"]));
        assert_eq!(HEXLOWER.encode(&Sha256::digest(&page)), text(&r["sha256"]));
        let mut out = vec![1; usize::try_from(capacity(record)).expect("small")];
        assert_eq!(v.cipher().open(record, &page, &mut out), Ok(Opened::Data));
        assert_eq!(out[..plain.len()], plain);
        assert!(out[plain.len()..].iter().all(|b| *b == 0));
    }
}

#[test]
fn file_names() {
    let (v, keys) = (Vectors::load(), Vectors::load().volume_keys());
    for n in v.list("names") {
        let dir = DirId(array(&n["dir"]));
        let (name, entry) = (text(&n["name"]).as_bytes(), text(&n["entry"]));
        match names::encrypt(&keys, dir, name) {
            DiskName::Short(got) => {
                assert!(n.get("record").is_none() && got == entry);
                assert_eq!(names::decrypt(&keys, dir, entry.as_bytes()).as_deref(), Ok(name));
            }
            DiskName::Long { entry: got, record, text: target } => {
                assert_eq!((got.to_str(), record.to_str()), (Some(entry), n["record"].as_str()));
                assert_eq!(target, text(&n["text"]));
                let back = names::decrypt_long(&keys, dir, entry.as_bytes(), target.as_bytes());
                assert_eq!(back.as_deref(), Ok(name));
            }
        }
    }
}

#[test]
fn symlinks() {
    let (v, keys) = (Vectors::load(), Vectors::load().volume_keys());
    for link in v.list("links") {
        let Ok(LinkText::Inline(sealed)) = names::parse_link(text(&link["text"]).as_bytes()) else {
            panic!("an inline target")
        };
        let target = names::open_inline(&keys, &sealed).expect("it is ours");
        assert_eq!(target, text(&link["target"]).as_bytes());
    }
    let body = &v.0["body"];
    let id = LinkId(array(&body["id"]));
    assert_eq!(names::parse_link(text(&body["text"]).as_bytes()), Ok(LinkText::Body(id)));
    let target = names::open_body(&keys, id, &hex(&body["body"])).expect("it is ours");
    let len = usize::try_from(number(&body["target_len"])).expect("small");
    assert_eq!(target, hex(&body["target_byte"]).repeat(len));
}

#[test]
fn attributes_settings_and_fingerprint() {
    let (v, keys) = (Vectors::load(), Vectors::load().volume_keys());
    let xattr = &v.0["xattr"];
    let (name, disk) = (text(&xattr["name"]).as_bytes(), OsStr::new(text(&xattr["disk_name"])));
    assert_eq!(names::xattr_disk_name(&keys, name).as_bytes(), disk.as_bytes());
    let opened = names::open_xattr(&keys, disk, &hex(&xattr["sealed"]));
    assert_eq!(opened, Ok((name.to_vec(), hex(&xattr["value"]))));
    let (settings, mac) = (text(&v.0["settings"]).as_bytes(), array(&v.0["settings_mac"]));
    assert_eq!(keys.mac_settings(settings), mac);
    assert!(keys.verify_settings(settings, &mac) && !keys.verify_settings(b"{}", &mac));
    let (source, mac) = (text(&v.0["source"]).as_bytes(), array(&v.0["source_mac"]));
    assert_eq!(keys.mac_source(settings, source), mac);
    assert!(keys.verify_source(settings, source, &mac));
    assert!(!keys.verify_source(settings, b"{}", &mac) && !keys.verify_settings(source, &mac));
    assert_eq!(keys.fingerprint(), text(&v.0["fingerprint"]));
}

#[test]
fn attribute_blocks() {
    let (v, keys) = (Vectors::load(), Vectors::load().volume_keys());
    for b in v.list("xattr_blocks") {
        let entries = b["entries"].as_array().expect("a list");
        let mut block = XattrBlock::default();
        for entry in entries {
            let (name, value) = (text(&entry["name"]).as_bytes(), hex(&entry["value"]));
            block = block.with(name, &value).expect("it fits");
        }
        if b["apart"] == true {
            block = block.with_apart();
        }
        let sealed = hex(&b["sealed"]);
        assert_eq!(block.seal(&keys).len(), sealed.len());
        assert_eq!(XattrBlock::open(&keys, &sealed), Ok(block));
    }
}

#[test]
fn sidecar_lines_and_volume_file() {
    let v = Vectors::load();
    let lines: Vec<Line> = v
        .list("lines")
        .iter()
        .map(|l| Line::parse(text(l).as_bytes()).expect("it is what encode makes"))
        .collect();
    assert_eq!(lines[0].check, array(&v.0["check"]));
    let page: String = v.list("lines").iter().map(|l| format!("{}\n", text(l))).collect();
    assert_eq!(Page::of(&lines).encode(), page.as_bytes());
    let bytes = text(&v.0["volume_json"]).as_bytes();
    let file = VolumeFile::parse(bytes).expect("it is what encode makes");
    assert_eq!(file.encode(), bytes);
    assert_eq!(file.settings.encode(), text(&v.0["settings"]));
    assert_eq!((file.settings.volume(), file.mac), (v.volume(), array(&v.0["settings_mac"])));
    assert_eq!(file.wrap.source.encode(), text(&v.0["source"]));
    assert_eq!(file.wrap.source_mac, Some(array(&v.0["source_mac"])));
    let body = LinkId(array(&v.0["body"]["id"]));
    let removed = [Removed::Line(v.file()), Removed::Body(body)].map(|entry| entry.encode());
    assert!(removed.iter().eq(v.list("removed").iter().map(text)));
}

#[test]
fn recovery() {
    let (v, keys) = (Vectors::recovery(), Vectors::recovery().volume_keys());
    let bytes = text(&v.0["volume_json"]).as_bytes();
    let file = VolumeFile::parse(bytes).expect("it is what encode makes");
    assert_eq!(file.encode(), bytes);
    let recipients: Vec<&str> = v.list("recipients").iter().map(text).collect();
    assert_eq!(file.settings.recipients(), recipients);
    assert!(keys.verify_settings(file.settings.encode().as_bytes(), &file.mac));
    let branch = BranchId(array(&v.0["branch"]));
    let branch_files = ["branch_file", "branch_file_of_both"].map(|name| {
        let bytes = text(&v.0[name]).as_bytes();
        let file = BranchFile::parse(bytes).expect("it is what encode makes");
        assert_eq!(file.encode(), bytes);
        file
    });
    assert!(branch_files[0].by_kms.is_none() && branch_files[1].by_kms.is_some());
    let of_volume = (SealedOf::Volume, file.recovery.expect("sealed"), v.key("volume_key"));
    let of_branches = branch_files.map(|file| {
        let sealed = file.recovery.expect("sealed");
        (SealedOf::Branch(branch), sealed, v.key("branch_key"))
    });
    for (n, identity) in v.list("identities").iter().map(text).enumerate() {
        let identity = Identities::parse(identity).expect("one");
        assert_eq!(identity.recipients().collect::<Vec<_>>(), [recipients[n]]);
        for (of, sealed, key) in of_branches.iter().chain([&of_volume]) {
            assert!(is_own_seal(&keys, *of, sealed), "{of:?}");
            assert_eq!(identity.open(&sealed.age).expect("its own").expose(), key.expose());
        }
    }
    let bytes = text(&v.0["line"]).as_bytes();
    let line = Line::parse(bytes).expect("it is what encode makes");
    assert_eq!(line.encode(), bytes);
    let second = line.second.expect("one");
    assert_eq!(second.branch, branch);
    let wrapper = BranchKey::new(&v.key("branch_key"), v.volume(), branch);
    let opened = wrapper.unwrap(&second.key, v.file()).expect("its own");
    assert_eq!(opened.expose(), v.key("data_key").expose());
    assert_eq!(line.check, check(&opened, v.volume(), v.file()));
}
