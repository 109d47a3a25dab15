//! Recovering a volume whose master key is gone: a rewrap whose keys come from what is sealed to
//! the recipients of the recovery, in place of the KMS.

use std::io;
use std::sync::Arc;

use super::{Left, Method, Owner, Rewrap, RewrapError};
use crate::ids::{BranchId, FileId};
use crate::keys::{Opener, SealedOf};
use crate::kms::{KeyRef, KeyService};
use crate::recovery::Sealed;
use crate::secret::{Key, scrub_stack};
use crate::store::{Line, Provider, Store};

/// How a key is had without the KMS.
pub(super) enum Second<'a> {
    /// The volume key is sealed in `volume.json`.
    Volume,
    /// The canary protects nothing: another does as well.
    Canary,
    /// A branch key is sealed beside what the KMS wrapped.
    Branch(BranchId, Option<&'a Sealed>),
    /// A data key is under a branch key.
    File(FileId, &'a Line),
}

impl Second<'_> {
    /// The key.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn open(&self, by: &Opener, store: &Store) -> Result<Key, String> {
        match self {
            Self::Volume => Ok(by.volume_key().clone()),
            Self::Canary => Ok(Key::random()),
            Self::Branch(id, sealed) => by.sealed(SealedOf::Branch(*id), *sealed),
            Self::File(file, line) => by.data_key(store, *file, line),
        }
    }
}

impl Rewrap {
    /// A recovery to `asked` in another KMS or the same, with the store not mounted. Nothing is
    /// written.
    ///
    /// # Errors
    /// [`RewrapError`]; `SameName` where `asked` is what the volume says that it is under: which
    /// keys are recovered already, that name would not tell.
    pub fn recover(
        store: Store,
        by: Arc<Opener>,
        (to, provider): (Arc<dyn KeyService>, Provider),
        asked: KeyRef,
    ) -> Result<Self, RewrapError> {
        let file = by.file().clone();
        let rewrap = Self::prepare_of(store, file, Method::Recover { by, to }, provider, asked)?;
        match rewrap.target == rewrap.file.wrap.source.master {
            true => Err(RewrapError::SameName(rewrap.target)),
            false => Ok(rewrap),
        }
    }
}

/// What a recovery would find.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recoverable {
    /// Data keys that it has.
    pub keys: u64,
    /// Those that it does not have.
    pub left: Vec<Left>,
    /// Lines that cannot be read.
    pub damaged: u64,
}

/// Opens every data key of a store, mounted or not, and keeps none. Nothing is written, and no KMS
/// is asked.
///
/// # Errors
/// Of the backing filesystem.
pub fn recoverable(store: &Store, by: &Opener, progress: &dyn Fn(u64)) -> io::Result<Recoverable> {
    let mut found = Recoverable::default();
    for shard in 0..=u8::MAX {
        for id in store.pages(shard)? {
            let Some(page) = store.read_page(id)? else { continue };
            found.damaged += page.damaged() as u64;
            let before = found.keys;
            for line in page.readable() {
                let file = FileId::new(id, line.slot);
                match by.data_key(store, file, &line) {
                    Ok(_) => found.keys += 1,
                    Err(why) => found.left.push(Left { owner: Owner::File(file), why }),
                }
            }
            scrub_stack();
            progress(found.keys - before);
        }
    }
    Ok(found)
}
