//! What a locked daemon's memory holds: no key in any form, and plaintext only where
//! docs/THREATS.md says so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use data_encoding::{BASE64, HEXLOWER};
use hkdf::Hkdf;
use kmsfs::ids::{BranchId, VolumeId};
use kmsfs::kms::local::LocalKms;
use kmsfs::kms::{Context, KeyRef, KeyService, Wrapped};
use kmsfs::secret::Key;
use kmsfs::store::{Page, Store as Layout, WrapKind};
use sha2::Sha256;

use crate::support::{Store, files, kmsfs, run, schedule, skipped};

/// A region of the daemon's memory.
struct Region {
    name: String,
    bytes: Vec<u8>,
}

/// Everything readable that is the daemon's own: not the pages of its program file.
fn memory_of(pid: u64) -> Vec<Region> {
    let maps =
        fs::read_to_string(format!("/proc/{pid}/maps")).expect("the daemon runs, we are root");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("we are root");
    let mut regions = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, mode) = (fields.next().expect("a range"), fields.next().expect("a mode"));
        let name = fields.nth(3).unwrap_or("anonymous").to_owned();
        if !mode.starts_with("rw") || name == "[vvar]" {
            continue;
        }
        let (from, to) = range.split_once('-').expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("hexadecimal");
        let mut bytes = vec![0; usize::try_from(number(to) - number(from)).expect("it fits")];
        if memory.read_exact_at(&mut bytes, number(from)).is_ok() {
            regions.push(Region { name, bytes });
        }
    }
    assert!(regions.iter().any(|r| r.name == "[heap]" || r.name == "anonymous"));
    regions
}

fn count(regions: &[Region], wanted: &[u8]) -> usize {
    let finder = memchr::memmem::Finder::new(wanted);
    regions.iter().map(|r| finder.find_iter(&r.bytes).count()).sum()
}

/// Where something lies, for a message.
fn places(regions: &[Region], wanted: &[u8]) -> Vec<String> {
    let finder = memchr::memmem::Finder::new(wanted);
    let place = |r: &Region, at: usize| format!("in {} at {at:#x} of {:#x}", r.name, r.bytes.len());
    regions.iter().flat_map(|r| finder.find_iter(&r.bytes).map(|at| place(r, at))).collect()
}

/// Every key that the daemon ever had, by name: unwrapped here, as it did.
pub fn keys_of(store: &Store) -> Vec<(String, [u8; 32])> {
    let kms = LocalKms::open(&store.keystore(), None).expect("not sealed");
    let layout = Layout::open_path(&store.path()).expect("a store");
    let file = layout.read_volume().expect("a volume");
    let volume = file.settings.volume();
    let master = KeyRef::from(&file.wrap.source.master);
    let unwrap = |wrapped: &Wrapped, master: &KeyRef, context: &Context| {
        kms.decrypt(master, wrapped, context).expect("the key is enabled").key
    };
    let volume_key = unwrap(&file.wrap.key, &master, &Context::volume(volume));
    let canary = unwrap(&file.wrap.canary, &master, &Context::canary(volume));
    let mut keys = vec![
        ("the volume key".to_owned(), *volume_key.expose()),
        ("the canary".to_owned(), *canary.expose()),
    ];
    for info in ["name", "link", "xattr-name", "xattr-value", "settings-mac"] {
        let info = format!("kmsfs v1 {info}");
        keys.push((info.clone(), derived(&volume_key, volume, &[info.as_bytes()])));
    }
    let branches = branch_keys(&layout, volume, unwrap);
    for (branch, key) in &branches {
        keys.push((format!("branch key {branch}"), *key.expose()));
    }
    for path in pages(&store.path()) {
        let stem = path.file_name().expect("a name").to_str().expect("hexadecimal").to_owned();
        let page = Page::parse(&fs::read(&path).expect("readable"));
        for line in page.readable() {
            let id = kmsfs::ids::FileId::new(
                kmsfs::ids::PageId::parse(&stem).expect("a page id"),
                line.slot,
            );
            let key = match &line.kind {
                WrapKind::Master(arn) => {
                    unwrap(&line.key, &KeyRef::from(arn), &Context::file(volume, id))
                }
                WrapKind::Branch(branch) => {
                    let aad = [volume.0, branch.0, id.0].concat();
                    opened(&branches[branch], &line.key.0, &aad)
                }
            };
            let content = derived(&key, volume, &[b"kmsfs v1 content", &id.0]);
            keys.push((format!("data key {id}"), *key.expose()));
            keys.push((format!("content key {id}"), content));
        }
    }
    keys
}

fn branch_keys(
    layout: &Layout,
    volume: VolumeId,
    unwrap: impl Fn(&Wrapped, &KeyRef, &Context) -> Key,
) -> BTreeMap<BranchId, Key> {
    let key = |id| {
        let file = layout.read_branch(id).expect("a branch file");
        (id, unwrap(&file.key, &KeyRef::from(&file.master), &Context::branch(volume, id)))
    };
    layout.branches().expect("listed").into_iter().map(key).collect()
}

/// What a branch key wrapped: nonce, data key, tag.
fn opened(branch: &Key, wrapped: &[u8], aad: &[u8]) -> Key {
    let (nonce, rest) = wrapped.split_at(12);
    let (body, tag) = rest.split_at(32);
    Key::build(|out| {
        Aes256GcmSiv::new(branch.expose().into())
            .decrypt_inout_detached(
                nonce.try_into().expect("12 bytes"),
                aad,
                InOutBuf::new(body, out).expect("both are 32 bytes"),
                tag.try_into().expect("16 bytes"),
            )
            .expect("a line of this branch key");
    })
}

fn derived(key: &Key, volume: VolumeId, info: &[&[u8]]) -> [u8; 32] {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(Some(&volume.0), key.expose())
        .expand_multi_info(info, &mut out)
        .expect("32 bytes are within HKDF's limit");
    out
}

fn pages(store: &Path) -> Vec<PathBuf> {
    files(&store.join("keys"))
}

/// The forms in which a key is looked for. The first round keys of a schedule are the key
/// itself; two later ones stand for the rest.
pub fn forms(key: &[u8; 32]) -> Vec<(&'static str, Vec<u8>)> {
    let rounds = schedule::aes256(key);
    vec![
        ("raw", key.to_vec()),
        ("hex", HEXLOWER.encode(key).into_bytes()),
        ("base64", BASE64.encode(key).into_bytes()),
        ("schedule", rounds[2..4].concat()),
        ("schedule's end", rounds[13..15].concat()),
    ]
}

const MARK: &[u8] = b"<a mark in the plaintext of a file>";

const NAME: &str = "a-marked-name-";

/// The workers' request buffers: fuser's, which it never wipes.
fn request_buffers(regions: &mut Vec<Region>) -> Vec<Region> {
    regions.extract_if(.., |r| r.bytes.len() >= 16 << 20).collect()
}

#[test]
fn a_locked_daemon_holds_no_key_and_no_plaintext() {
    look_into_a_locked_daemon("per-file");
}

#[test]
fn a_locked_daemon_holds_no_branch_key() {
    look_into_a_locked_daemon("branch");
}

fn look_into_a_locked_daemon(data_keys: &str) {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--data-keys", data_keys]);
    // Its paths pass through the daemon too.
    let log = store.outside("audit.jsonl");
    let mount = store.mount(&["--heartbeat", "2s", "--audit-log", log.to_str().expect("UTF-8")]);
    let text = MARK.repeat(2000);
    for i in 0..40 {
        fs::write(mount.at(&format!("{NAME}{i}")), &text).expect("written");
    }
    for i in 0..40 {
        let file = File::open(mount.at(&format!("{NAME}{i}"))).expect("opened");
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        assert_eq!(fs::read(mount.at(&format!("{NAME}{i}"))).expect("readable"), text);
    }
    let keys = keys_of(&store);
    let open = memory_of(mount.pid());
    let held = keys.iter().any(|(_, key)| forms(key).iter().any(|(_, f)| count(&open, f) > 0));
    assert!(held, "an open daemon holds keys, and this search finds them");

    run(kmsfs()
        .arg("key")
        .arg("--keystore")
        .arg(store.keystore())
        .args(["disable", "alias/kmsfs"]));
    mount.wait_state("revoked", Duration::from_secs(10));
    let mut locked = memory_of(mount.pid());
    let mut found = Vec::new();
    for (name, key) in &keys {
        for (form, bytes) in forms(key) {
            found.extend(
                places(&locked, &bytes).into_iter().map(|at| format!("{name} ({form}) {at}")),
            );
        }
    }
    assert!(found.is_empty(), "in a locked daemon's memory: {found:#?}");
    let buffers = request_buffers(&mut locked);
    println!(
        "{} keys looked for; in request buffers: {} marks of plaintext, {} names",
        keys.len(),
        count(&buffers, MARK),
        count(&buffers, NAME.as_bytes())
    );
    for mark in [MARK, NAME.as_bytes()] {
        let left = places(&locked, mark);
        assert!(left.is_empty(), "plaintext outside the request buffers: {left:#?}");
    }
}
