//! Cuts the power while a volume is made, and while `volume.json` is replaced.

use std::ffi::OsStr;

use kmsfs::disk::sim::Sim;
use kmsfs::keys::OpenError;
use kmsfs::kms::KeyRef;
use kmsfs::store::{Store, StoreError, VolumeFile};

use crate::simulated::{self, Volume};

/// How many states are looked at, of each moment.
const STATES: usize = 200;

fn cuts(sim: &Sim) -> impl Iterator<Item = Sim> {
    let mut moments = sim.moments();
    moments.push(sim.clone());
    moments.into_iter().flat_map(|m| m.crash().states(STATES, 1).collect::<Vec<_>>())
}

#[test]
fn a_volume_is_made_whole_or_not_at_all() {
    let sim = Sim::new();
    sim.moments();
    simulated::init(&sim).expect("made");
    let (mut made, mut unmade) = (0, 0);
    for state in cuts(&sim) {
        match Volume::mount(state) {
            Ok(volume) => {
                volume.create("f").expect("usable");
                volume.write("f", 0, b"content").expect("usable");
                assert_eq!(volume.read("f"), Ok(b"content".to_vec()));
                made += 1;
            }
            // A part of the layout: a folder of the store may be what is missing.
            Err(OpenError::Store(StoreError::NotAStore | StoreError::Io(..))) => unmade += 1,
            Err(e) => panic!("neither made nor unmade: {e:?}"),
        }
    }
    assert!(made > 0 && unmade > 0, "{made} and {unmade}");
    for state in sim.crash().states(STATES, 1) {
        assert!(Volume::mount(state).is_ok(), "init has ended: it is durable");
    }
}

#[test]
fn volume_json_is_the_old_or_the_new() {
    let sim = Sim::new();
    simulated::init(&sim).expect("made");
    let store = Store::open(sim.root()).expect("opened");
    let old = store.read_volume().expect("whole");
    let mut new = old.clone();
    new.wrap.source.asked = KeyRef("alias/another".to_owned());
    sim.moments();
    store.write_volume(&new).expect("written");
    let read = |sim: &Sim| -> VolumeFile {
        Store::open(sim.root()).expect("opened").read_volume().expect("one copy is whole")
    };
    let (mut olds, mut news) = (0, 0);
    for state in cuts(&sim) {
        let got = read(&state);
        *if got == old { &mut olds } else { &mut news } += 1;
        assert!(got == old || got == new);
        // The second copy alone is whole, too, and never ahead of the first.
        state.root().unlink(OsStr::new("volume.json")).expect("there");
        let copy = read(&state);
        assert!(copy == old || (copy == new && got == new));
    }
    assert!(olds > 0 && news > 0, "{olds} and {news}");
    for state in sim.crash().states(STATES, 1) {
        assert_eq!(read(&state), new, "it was written durably");
    }
}
