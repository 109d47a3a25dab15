//! Files of branch keys.

use std::ffi::OsStr;

use kmsfs::disk;
use kmsfs::disk::sim::Sim;

use crate::simulated::Volume;
use crate::{Damaged, FILES, Raw, text};

/// A volume with its files under one branch key, and `later` under another; the first's file.
fn volume_of_two() -> (Sim, String) {
    let sim = Damaged::with_files(Volume::under_branches()).volume.unmount();
    let branches = |sim: &Sim| {
        let keys = sim.root().open_dir(OsStr::new("keys")).expect("there");
        let names = disk::names(&*keys.open_dir(OsStr::new("branch")).expect("there"));
        names.expect("listed").into_iter().map(|n| n.to_string_lossy().into_owned())
    };
    let first = branches(&sim).next().expect("one");
    let volume = Volume::mount(sim).expect("a volume");
    volume.create("later").expect("made");
    volume.write("later", 0, b"of another branch key").expect("written");
    let sim = volume.unmount();
    assert_eq!(branches(&sim).count(), 2);
    (sim, first)
}

/// Reads all on a fresh mount: the outcome of the first branch key's files, which is one.
fn look(sim: &Sim) -> Result<(), i32> {
    let volume = Volume::mount(sim.fork()).expect("a volume");
    let read = |name: &str| match volume.read(name).map_err(|e| e.0) {
        Ok(got) => {
            assert_eq!(got, text(name), "{name}");
            Ok(())
        }
        Err(errno) => Err(errno),
    };
    let outcomes = FILES.map(|(name, _)| read(name));
    assert!(outcomes.iter().all(|o| *o == outcomes[0]), "{outcomes:?}");
    assert_eq!(volume.read("later").expect("it has its own"), b"of another branch key");
    outcomes[0]
}

#[test]
fn every_byte_of_a_branch_file_costs_its_files_alone() {
    let (sim, branch) = volume_of_two();
    assert_eq!(look(&sim), Ok(()));
    let raw = Raw::in_store(&sim.root(), &["keys", "branch", &branch]);
    let bytes = raw.bytes();
    let arn_ends = bytes.windows(2).position(|w| w == b"\",").expect("the end of its ARN");
    raw.flip_each(|i| match look(&sim) {
        Err(libc::EKEYREJECTED) => {}
        // It reads as another master key, which there is not.
        Err(libc::EKEYREVOKED) => assert!(i < arn_ends, "byte {i}"),
        other => panic!("byte {i}: {other:?}"),
    });
    assert_eq!(look(&sim), Ok(()), "whole again");
    raw.dir.unlink(&raw.name).expect("removed");
    assert_eq!(look(&sim), Err(libc::EKEYREJECTED));
}

/// A branch file under another's name does not open what either wrapped.
#[test]
fn branch_files_exchanged() {
    let (sim, branch) = volume_of_two();
    let raw = Raw::in_store(&sim.root(), &["keys", "branch", &branch]);
    let names = disk::names(&*raw.dir).expect("listed");
    let other = names.into_iter().find(|n| *n != raw.name).expect("another");
    let other = Raw { dir: raw.dir.clone(), name: other };
    let bytes = raw.bytes();
    raw.set(&other.bytes());
    assert_eq!(look(&sim), Err(libc::EKEYREJECTED));
    raw.set(&bytes);
    assert_eq!(look(&sim), Ok(()));
}
