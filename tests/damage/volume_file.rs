//! volume.json: every byte of one copy, and of both.

use kmsfs::keys::OpenError;
use kmsfs::kms::Verdict;
use kmsfs::store::StoreError;

use crate::simulated::Volume;
use crate::{Damaged, Raw, text};

/// Whether this is told as a damaged volume (exit code 3), or as a key that the KMS refuses (5),
/// as the damage reads.
fn is_told(e: &OpenError) -> bool {
    match e {
        OpenError::Store(StoreError::BadVolumeFile(_))
        | OpenError::Changed
        | OpenError::Unproven { .. } => true,
        // Of a volume that is open already, or of a mount: not by damage.
        OpenError::Store(_)
        | OpenError::Another
        | OpenError::Older { .. }
        | OpenError::Elsewhere { .. }
        | OpenError::OtherMaster { .. } => false,
        OpenError::Kms(e) => e.verdict != Verdict::Unavailable,
    }
}

/// Flips each byte of the copies; answers at which the volume opened all the same, and the file.
fn flip_each_of(copies: &[&str]) -> (Vec<usize>, String) {
    let damaged = Damaged::new();
    let sim = damaged.volume.unmount();
    let raw = |name: &&str| Raw::in_store(&sim.root(), &[name]);
    let copies: Vec<Raw> = copies.iter().map(raw).collect();
    let bytes = copies[0].bytes();
    let mut opened = Vec::new();
    for (i, byte) in bytes.iter().enumerate() {
        copies.iter().for_each(|raw| raw.put(i, &[byte ^ 1 << (i % 8)]));
        match Volume::mount(sim.fork()) {
            Ok(volume) => {
                opened.push(i);
                let got = volume.read("f").map_err(|e| e.0);
                assert_eq!(got, Ok(text("f")), "byte {i}: opened, and something else is there");
            }
            Err(e) => assert!(is_told(&e), "byte {i}: {e:?}"),
        }
        copies.iter().for_each(|raw| raw.put(i, &[*byte]));
    }
    (opened, String::from_utf8(bytes).expect("JSON"))
}

#[test]
fn every_byte_of_both_copies() {
    let (opened, text) = flip_each_of(&["volume.json", "volume.json.bak"]);
    for at in opened {
        let line = text[..at].rsplit('\n').next().expect("a part").trim_start();
        // It takes no part in opening. A mount asks for it: see `Volume::preflight`.
        assert!(line.starts_with("\"canary\": \""), "byte {at} makes no difference");
    }
}

#[test]
fn every_byte_of_the_first_copy() {
    let (opened, _) = flip_each_of(&["volume.json"]);
    assert!(!opened.is_empty(), "the second copy counts where the first does not parse");
}

#[test]
fn every_byte_of_the_second_copy() {
    let (opened, text) = flip_each_of(&["volume.json.bak"]);
    assert_eq!(opened.len(), text.len(), "it is not looked at");
}

#[test]
fn a_copy_cut_short_is_not_taken() {
    let damaged = Damaged::new();
    let sim = damaged.volume.unmount();
    let raw = Raw::in_store(&sim.root(), &["volume.json"]);
    let bytes = raw.bytes();
    for len in (0..bytes.len()).step_by(13) {
        raw.set(&bytes[..len]);
        let volume = Volume::mount(sim.fork()).expect("the second copy is whole");
        assert_eq!(volume.read("f"), Ok(text("f")));
    }
}
