//! Looking for keys in a daemon's memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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

use super::{PATIENCE, Store, files, schedule};

/// Pages in a row of a region of the daemon's memory that are not all zeros.
pub struct Pages {
    /// What the kernel calls the region.
    pub name: String,
    /// How large the region is.
    pub region: usize,
    /// What they hold.
    pub bytes: Vec<u8>,
}

/// Everything readable that is the daemon's own: not the pages of its program file.
pub fn memory_of(pid: u64) -> Vec<Pages> {
    let maps =
        fs::read_to_string(format!("/proc/{pid}/maps")).expect("the daemon runs, we are root");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("we are root");
    let mut found = Vec::new();
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
            // Most of it was never touched, and is not worth a look for each key.
            let mut pages = bytes.chunks(4096).peekable();
            while pages.peek().is_some() {
                let blank = |page: &&[u8]| page.iter().all(|byte| *byte == 0);
                while pages.next_if(blank).is_some() {}
                let mut run = Vec::new();
                while let Some(page) = pages.next_if(|page| !blank(page)) {
                    run.extend_from_slice(page);
                }
                if !run.is_empty() {
                    found.push(Pages { name: name.clone(), region: bytes.len(), bytes: run });
                }
            }
        }
    }
    assert!(found.iter().any(|r| r.name == "[heap]" || r.name == "anonymous"));
    found
}

/// How often something lies there.
pub fn count(memory: &[Pages], wanted: &[u8]) -> usize {
    let finder = memchr::memmem::Finder::new(wanted);
    memory.iter().map(|r| finder.find_iter(&r.bytes).count()).sum()
}

/// Where something lies, for a message.
pub fn places(memory: &[Pages], wanted: &[u8]) -> Vec<String> {
    let finder = memchr::memmem::Finder::new(wanted);
    let place = |r: &Pages, at: usize| format!("in {} at {at:#x} of {:#x}", r.name, r.bytes.len());
    memory.iter().flat_map(|r| finder.find_iter(&r.bytes).map(|at| place(r, at))).collect()
}

/// Every key that the daemon of a store on the embedded keystore ever had.
pub fn keys_of(store: &Store) -> Vec<(String, [u8; 32])> {
    let kms = LocalKms::open(&store.keystore(), None).expect("not sealed");
    keys_by(&store.path(), &kms)
}

/// Says keys on stdout, for [`told_keys`] of another process.
pub fn tell_keys(keys: &[(String, [u8; 32])]) {
    for (name, key) in keys {
        println!("\nunwrapped {} {name}", HEXLOWER.encode(key));
    }
}

/// The keys that another process said.
pub fn told_keys(said: &str) -> Vec<(String, [u8; 32])> {
    let keys = said.lines().filter_map(|line| line.strip_prefix("unwrapped "));
    let parsed = |line: &str| {
        let (key, name) = line.split_once(' ').expect("a key and its name");
        let key = HEXLOWER.decode(key.as_bytes()).expect("hexadecimal");
        (name.to_owned(), key.try_into().expect("32 bytes"))
    };
    keys.map(parsed).collect()
}

/// Every key that a daemon ever had, by name: unwrapped here, as it did.
pub fn keys_by(store: &Path, kms: &dyn KeyService) -> Vec<(String, [u8; 32])> {
    let layout = Layout::open_path(store).expect("a store");
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
    for info in ["name", "link", "xattr-name", "xattr-value", "settings-mac", "recovery-mac"] {
        let info = format!("kmsfs v1 {info}");
        keys.push((info.clone(), derived(&volume_key, volume, &[info.as_bytes()])));
    }
    let branches = branch_keys(&layout, volume, unwrap);
    for (branch, key) in &branches {
        keys.push((format!("branch key {branch}"), *key.expose()));
    }
    for path in pages(store) {
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
    // Those of the recovery alone the KMS cannot unwrap.
    let key = |id| {
        let by = layout.read_branch(id).expect("a branch file").by_kms?;
        Some((id, unwrap(&by.key, &KeyRef::from(&by.master), &Context::branch(volume, id))))
    };
    layout.branches().expect("listed").into_iter().filter_map(key).collect()
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
    let mut pages = files(&store.join("keys"));
    // What a daemon is about to put in a page's place, or to remove.
    pages.retain(|path| !path.to_string_lossy().contains(".tmp-"));
    pages
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

/// Where keys lie, in each of their forms.
pub fn found(memory: &[Pages], keys: &[(String, [u8; 32])]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, key) in keys {
        for (form, bytes) in forms(key) {
            let at = places(memory, &bytes).into_iter();
            found.extend(at.map(|at| format!("{name} ({form}) {at}")));
        }
    }
    found
}

/// Uses a store in a KMS elsewhere, disables its key, and looks for data keys in what is left of the
/// daemon's memory. `keys_of` unwraps all of them.
pub fn locked_daemon_holds_none(
    store: &Store,
    key: &str,
    keys_of: impl FnOnce() -> Vec<(String, [u8; 32])>,
) {
    let mount = store.mount(&["--heartbeat", "1s"]);
    mount.fill(40);
    mount.unmount();
    // All keys are fetched, and others made.
    let mount = store.mount(&["--heartbeat", "1s"]);
    mount.check_filled(40);
    let open_file = File::create(mount.at("another")).expect("made");
    let keys = keys_of();
    assert!(keys.len() > 20, "{}", keys.len());
    let held = found(&memory_of(mount.pid()), &keys);
    assert!(!held.is_empty(), "an open daemon holds keys, and this search finds them");
    store.key(&["disable", key]);
    mount.wait_state("revoked", PATIENCE);
    drop(open_file);
    let left = found(&memory_of(mount.pid()), &keys);
    assert!(left.is_empty(), "{} of {}: {left:#?}", left.len(), keys.len());
    store.key(&["enable", key]);
    mount.wait_state("open", PATIENCE);
}
