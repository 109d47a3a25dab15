//! Reading a volume without its KMS: from an identity of the recovery to every key.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::branch::BranchKey;
use super::sealing::{self, Of};
use super::volume::{Identity, is_of_volume};
use crate::content::check;
use crate::ids::{BranchId, FileId, VolumeId};
use crate::names::VolumeKeys;
use crate::recovery::{Identities, NotOpened, Sealed};
use crate::secret::{Key, scrub_stack};
use crate::store::{Copy, Line, Store, StoreError, VolumeFile, WrapKind};

/// How many branch keys are kept: each opens up to 65,536 lines.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Why a volume does not open without its KMS.
#[derive(Debug, thiserror::Error)]
pub enum NoRecovery {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing in it is sealed to anybody.
    #[error(
        "the volume has no recovery: it was made without --recovery, and what its master key has \
         wrapped nothing else opens"
    )]
    None,
    /// Its recipients are others.
    #[error("none of these identities is of a recipient of the volume; those are: {}", .0.join(", "))]
    NotMine(Vec<String>),
    /// `volume.json` is not what somebody wrote who had the volume key.
    #[error("volume.json is damaged or has been changed: its recovery does not verify")]
    Changed,
}

/// Opens what is sealed to a volume's recipients. Its keys are wiped when it is dropped.
pub struct Opener {
    identities: Identities,
    file: VolumeFile,
    volume_key: Key,
    keys: VolumeKeys,
    /// `None` for one that does not open, and why.
    branches: Mutex<LruCache<BranchId, Result<Arc<BranchKey>, String>>>,
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({})", self.volume())
    }
}

impl Opener {
    /// Opens the volume of a store: by the second copy of `volume.json` where the first does not
    /// open, for without its KMS no check can mend that.
    ///
    /// # Errors
    /// [`NoRecovery`], of the first copy.
    pub fn new(store: &Store, identities: Identities) -> Result<Self, NoRecovery> {
        let read = |copy| -> Result<_, NoRecovery> {
            let file = store.read_volume_copy(copy)?;
            let opened = open(&file, &identities);
            scrub_stack();
            opened.map(|(volume_key, keys)| (file, volume_key, keys))
        };
        let opened = read(Copy::First).or_else(|e| read(Copy::Second).map_err(|_| e));
        let (file, volume_key, keys) = opened?;
        let branches = Mutex::new(LruCache::new(KEPT));
        Ok(Self { identities, file, volume_key, keys, branches })
    }

    /// The `volume.json` that it has opened.
    pub fn file(&self) -> &VolumeFile {
        &self.file
    }

    /// The volume's id.
    pub fn volume(&self) -> VolumeId {
        self.file.settings.volume()
    }

    /// What a machine remembers the volume by.
    pub fn identity(&self) -> Identity {
        Identity {
            volume: self.volume(),
            fingerprint: self.keys.fingerprint(),
            generation: self.file.wrap.source.generation,
        }
    }

    /// The volume key.
    pub fn volume_key(&self) -> &Key {
        &self.volume_key
    }

    /// Opens a sealed key of this volume.
    ///
    /// # Errors
    /// Why not.
    pub fn sealed(&self, of: Of, sealed: Option<&Sealed>) -> Result<Key, String> {
        let sealed = sealed.ok_or("it is not sealed to the recipients of the recovery")?;
        if !sealing::is_own(&self.keys, of, sealed) {
            return Err("what is sealed to the recipients was changed: its MAC is another".into());
        }
        let opened = self.identities.open(&sealed.age);
        scrub_stack();
        opened.map_err(|e| format!("what is sealed to the recipients does not open: {e}"))
    }

    /// The data key of a line, proved by its check.
    ///
    /// # Errors
    /// Why there is none.
    pub fn data_key(&self, store: &Store, file: FileId, line: &Line) -> Result<Key, String> {
        let (branch, wrapped) = match (&line.kind, &line.second) {
            (WrapKind::Branch(branch), _) => (*branch, &line.key),
            (WrapKind::Master(_), Some(second)) => (second.branch, &second.key),
            (WrapKind::Master(_), None) => {
                return Err("its line has no second wrap for the recovery".to_owned());
            }
        };
        let key = self.branch(store, branch)?.unwrap(wrapped, file);
        match key {
            Some(key) if check(&key, self.volume(), file) == line.check => Ok(key),
            _ => Err(format!("branch key {branch} does not open its line")),
        }
    }

    fn branch(&self, store: &Store, id: BranchId) -> Result<Arc<BranchKey>, String> {
        if let Some(known) = self.branches.lock().get(&id) {
            return known.clone();
        }
        let read = store.read_branch(id).map_err(|e| e.to_string());
        let key = read.and_then(|file| self.sealed(Of::Branch(id), file.recovery.as_ref()));
        let opened = match key {
            Ok(key) => Ok(Arc::new(BranchKey::new(&key, self.volume(), id))),
            Err(why) => Err(format!("branch key {id}: {why}")),
        };
        self.branches.lock().push(id, opened.clone());
        opened
    }
}

fn open(file: &VolumeFile, identities: &Identities) -> Result<(Key, VolumeKeys), NoRecovery> {
    let (Some(recipients), Some(sealed)) = (&file.settings.recovery, &file.recovery) else {
        return Err(NoRecovery::None);
    };
    let key = identities.open(&sealed.age).map_err(|e| match e {
        NotOpened::NotMine => NoRecovery::NotMine(recipients.texts().collect()),
        NotOpened::Damaged => NoRecovery::Changed,
    })?;
    let keys = VolumeKeys::derive(&key, file.settings.volume());
    if is_of_volume(file, &keys) { Ok((key, keys)) } else { Err(NoRecovery::Changed) }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::super::fixture::{close, keyring_over, kms, recoverable_volume};
    use super::super::{KeyRequest, Keyring, Phase, Reason};
    use super::*;
    use crate::disk::sim::Sim;
    use crate::ids::PageId;
    use crate::kms::Wrapped;
    use crate::recovery::{Recipients, sample};
    use crate::store::{BranchFile, DataKeys, Page, SecondWrap};

    const BOTH: [DataKeys; 2] = [DataKeys::PerFile, DataKeys::Branch];

    fn identities() -> Identities {
        Identities::parse(sample::SECRET).expect("one")
    }

    fn opener(store: &Store) -> Opener {
        Opener::new(store, identities()).expect("its recipient")
    }

    fn lines(store: &Store) -> Vec<(FileId, Line)> {
        let pages = (0..=u8::MAX).flat_map(|shard| store.pages(shard).expect("listed"));
        let lines = |page: PageId| {
            let read = store.read_page(page).expect("readable").unwrap_or_default();
            let with_id = |line: Line| (FileId::new(page, line.slot), line);
            read.readable().map(with_id).collect::<Vec<_>>()
        };
        pages.flat_map(lines).collect()
    }

    fn filled(sim: &Sim) -> Arc<Keyring> {
        let keyring = keyring_over(sim, kms());
        keyring.supply(KeyRequest::Fresh).expect("filled");
        keyring
    }

    /// By the KMS and by the identity each line opens to one key: its check says so.
    #[test]
    fn every_data_key_that_is_made_can_be_recovered() {
        for data_keys in BOTH {
            let sim = recoverable_volume(data_keys);
            let keyring = filled(&sim);
            drop(filled(&sim));
            let store = keyring.store();
            let opener = opener(store);
            let all = lines(store);
            assert!(all.len() >= 32);
            for (file, line) in &all {
                assert_eq!(line.second.is_some(), data_keys == DataKeys::PerFile);
                opener.data_key(store, *file, line).expect("recovered");
                assert_eq!(keyring.supply(KeyRequest::File(*file)), Ok(()), "and by the KMS");
            }
            assert_eq!(store.branches().expect("listed").len(), 2, "one a mount");
            assert_eq!(opener.identity(), keyring.volume().identity());
            close(&keyring, Phase::Locked(Reason::Operator));
            drop(keyring.wipe());
            assert_eq!(keyring.branches().len(), 0);
        }
    }

    /// A line that is durable while its branch key is not would be a file that no recovery has.
    #[test]
    fn no_power_cut_leaves_a_data_key_that_cannot_be_recovered() {
        for data_keys in BOTH {
            let sim = recoverable_volume(data_keys);
            let keyring = keyring_over(&sim, kms());
            sim.moments();
            keyring.supply(KeyRequest::Fresh).expect("filled");
            let mut seen = 0;
            for moment in sim.moments() {
                for state in moment.crash().states(16, 0) {
                    let store = Store::open(state.root()).expect("opened");
                    let opener = opener(&store);
                    for (file, line) in lines(&store) {
                        opener.data_key(&store, file, &line).expect("recovered");
                        seen += 1;
                    }
                }
            }
            assert!(seen > 0, "the last states have lines");
        }
    }

    #[test]
    fn nobody_else_opens_it_and_a_volume_without_recipients_has_no_recovery() {
        let sim = recoverable_volume(DataKeys::PerFile);
        let store = Store::open(sim.root()).expect("opened");
        let other = "AGE-SECRET-KEY-1QYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZQGPQYQSZ9K4CN";
        let got = Opener::new(&store, Identities::parse(other).expect("one"));
        let Err(NoRecovery::NotMine(recipients)) = got else { panic!("not theirs: {got:?}") };
        assert_eq!(recipients, [sample::PUBLIC]);
        let sim = super::super::fixture::volume();
        let store = Store::open(sim.root()).expect("opened");
        let got = Opener::new(&store, identities());
        assert!(matches!(got, Err(NoRecovery::None)), "{got:?}");
    }

    /// The KMS cannot be asked, so that no check could mend it from the other.
    #[test]
    fn the_second_copy_counts_where_the_first_does_not_open() {
        let sim = recoverable_volume(DataKeys::PerFile);
        let store = Store::open(sim.root()).expect("opened");
        let mut file = store.read_volume().expect("there");
        file.recovery.as_mut().expect("sealed").age[200] ^= 1;
        store.write_volume_copy(Copy::First, &file).expect("written");
        opener(&store);
        store.write_volume_copy(Copy::Second, &file).expect("written");
        let got = Opener::new(&store, identities());
        assert!(matches!(got, Err(NoRecovery::Changed)), "{got:?}");
    }

    /// Whoever can write the store had their own file recovered else: its data key, and what is
    /// written to it later, would be theirs.
    #[test]
    fn a_data_key_of_somebody_elses_is_not_recovered() {
        let sim = recoverable_volume(DataKeys::PerFile);
        let store = Store::open(sim.root()).expect("opened");
        let (volume, file) = (opener(&store).volume(), FileId::new(PageId::random(), 0));
        let (branch, branch_key, key) = (BranchId::random(), Key::random(), Key::random());
        let age = Recipients::new([sample::PUBLIC]).expect("one").seal(&branch_key);
        let sealed = Sealed { age, mac: [0; 32] };
        let theirs = BranchFile { by_kms: None, recovery: Some(sealed) };
        store.write_branch(branch, &theirs).expect("written");
        let wrapped = BranchKey::new(&branch_key, volume, branch).wrap(&key, file);
        let line = Line {
            slot: 0,
            kind: WrapKind::Master(crate::kms::KeyArn("arn:theirs".to_owned())),
            key: Wrapped(vec![1; 60]),
            second: Some(SecondWrap { branch, key: wrapped }),
            check: check(&key, volume, file),
        };
        store.add_page(file.page(), &Page::of(std::slice::from_ref(&line))).expect("written");
        let why = opener(&store).data_key(&store, file, &line).expect_err("theirs");
        assert!(why.contains("its MAC is another"), "{why}");
    }

    #[test]
    fn every_flipped_byte_of_a_second_wrap_is_seen() {
        let sim = recoverable_volume(DataKeys::PerFile);
        let keyring = filled(&sim);
        let (store, opener) = (keyring.store(), opener(keyring.store()));
        let (file, line) = lines(store).remove(0);
        for i in 0..60 {
            let mut flipped = line.clone();
            flipped.second.as_mut().expect("one").key.0[i] ^= 1;
            assert!(opener.data_key(store, file, &flipped).is_err(), "byte {i}");
        }
        let other = FileId::new(file.page(), file.slot() ^ 1);
        assert!(opener.data_key(store, other, &line).is_err(), "of another file");
        let stripped = Line { second: None, ..line };
        assert!(opener.data_key(store, file, &stripped).is_err());
    }
}
