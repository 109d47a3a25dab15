//! What others do between the reading of a line and the KMS's answer.

use std::sync::Arc;

use parking_lot::Mutex;

use super::fixture::{Around, branch_volume, keyring_over, kms, volume};
use super::{Accepted, KeyFail, KeyRequest, Keyring, Reason};
use crate::disk::sim::Sim;
use crate::ids::FileId;
use crate::kms::{
    Context, KeyAdmin, KeyArn, KeyRef, KeyService, KmsError, Unwrapped, Verdict, Wrapped,
};
use crate::store::{BranchFile, Line, Store, WrapKind};

type Hook = Box<dyn FnOnce() -> Result<(), KmsError> + Send>;

/// Something that happens just before the next Decrypt.
#[derive(Clone, Default)]
struct Meanwhile(Arc<Mutex<Option<Hook>>>);

impl Meanwhile {
    fn before_the_next(&self, hook: impl FnOnce() -> Result<(), KmsError> + Send + 'static) {
        *self.0.lock() = Some(Box::new(hook));
    }

    fn kms(&self) -> Arc<dyn KeyService> {
        let meanwhile = self.clone();
        Arc::new(Around(move |_: &Context, call: &dyn Fn() -> Result<Unwrapped, KmsError>| {
            let hook = meanwhile.0.lock().take();
            hook.map_or(Ok(()), |hook| hook())?;
            call()
        }))
    }
}

/// A keyring on this volume, its KMS, and a file whose key is not cached.
fn one_file(disk: &Sim) -> (Arc<Keyring>, Meanwhile, FileId) {
    let service = Meanwhile::default();
    let keyring = keyring_over(disk, service.kms());
    keyring.supply(KeyRequest::Fresh).expect("filled");
    let file = keyring.fresh().expect("filled").file();
    keyring.drop_data_keys();
    (keyring, service, file)
}

fn other_key() -> KeyRef {
    KeyRef(kms().create("").expect("made").id)
}

/// Puts whatever wraps this file's key under another master key, as a rewrap does.
fn rewrap(store: &Store, keyring: &Keyring, file: FileId, to: &KeyRef) -> KeyArn {
    let volume = keyring.volume().id();
    let page = store.read_page(file.page()).expect("readable").expect("there");
    let line = page.readable().find(|l| l.slot == file.slot()).expect("there");
    let carry = |key: &Wrapped, from: &KeyArn, context: &Context| {
        kms().reencrypt(key, (&from.into(), context), (to, context)).expect("rewrapped")
    };
    match &line.kind {
        WrapKind::Master(master) => {
            let new = carry(&line.key, master, &Context::file(volume, file));
            let kind = WrapKind::Master(new.master.clone());
            let new_line = Line { kind, key: new.wrapped, ..line.clone() };
            let change = |page: &mut crate::store::Page| assert!(page.replace(&line, &new_line));
            store.change_page(file.page(), change).expect("written");
            new.master
        }
        WrapKind::Branch(branch) => {
            let old = store.read_branch(*branch).expect("readable");
            let by = old.by_kms.expect("by the KMS");
            let new = carry(&by.key, &by.master, &Context::branch(volume, *branch));
            let file = BranchFile::by_kms(new.master.clone(), new.wrapped);
            store.write_branch(*branch, &file).expect("written");
            new.master
        }
    }
}

/// A rewrap replaced the line, and the old master key was disabled, after the line was read and
/// before the KMS was asked: the file was EKEYREVOKED, though its key was under one in use.
#[test]
fn a_refusal_of_a_master_key_that_a_rewrap_left_is_asked_again() {
    for disk in [volume(), branch_volume()] {
        let (keyring, service, file) = one_file(&disk);
        let (store, to, ring) = (keyring.store().clone(), other_key(), keyring.clone());
        service.before_the_next(move || {
            rewrap(&store, &ring, file, &to);
            Err(KmsError::new(Verdict::Refused, "DisabledException", "the old key"))
        });
        assert_eq!(keyring.supply(KeyRequest::File(file)), Ok(()));
        assert!(keyring.cipher(file).is_ok());
        keyring.drop_data_keys();
        let refused = || Err(KmsError::new(Verdict::Refused, "DisabledException", "this one"));
        service.before_the_next(refused);
        let closed = Err(KeyFail::Closed(Reason::Refused));
        assert_eq!(keyring.supply(KeyRequest::File(file)), closed, "nothing was replaced");
    }
}

/// A file was shredded between the reading of its line and the KMS's answer: its key was cached
/// once more, until its time to live ended.
#[test]
fn a_key_that_is_being_fetched_while_its_line_is_shredded_is_not_kept() {
    for disk in [volume(), branch_volume()] {
        let (keyring, service, file) = one_file(&disk);
        let ring = keyring.clone();
        service.before_the_next(move || {
            ring.store().remove_lines(file.page(), &[file.slot()].into()).expect("removed");
            ring.shredded(file);
            Ok(())
        });
        assert_eq!(keyring.supply(KeyRequest::File(file)), Ok(()), "who waits looks again");
        assert_eq!(keyring.cipher(file).err(), Some(KeyFail::NotCached(KeyRequest::File(file))));
        assert_eq!(keyring.supply(KeyRequest::File(file)), Err(KeyFail::Rejected));
    }
}

/// An alias moved, and keys of files were dropped for it, while one was being fetched.
#[test]
fn a_key_that_is_being_fetched_while_all_are_dropped_is_not_kept() {
    for disk in [volume(), branch_volume()] {
        let service = Meanwhile::default();
        let mut keyring = keyring_over(&disk, service.kms());
        let own = Arc::get_mut(&mut keyring).expect("nobody else's");
        own.volume_mut().accept(Accepted::Target);
        keyring.supply(KeyRequest::Fresh).expect("filled");
        let file = keyring.fresh().expect("filled").file();
        keyring.drop_data_keys();
        let (ring, other) = (keyring.clone(), kms().create("").expect("made").arn);
        service.before_the_next(move || {
            ring.targeted(&other);
            ring.drop_data_keys();
            Ok(())
        });
        // A branch key that came too late is not accepted; a data key is just not kept.
        let _ = keyring.supply(KeyRequest::File(file));
        assert_eq!(keyring.cipher(file).err(), Some(KeyFail::NotCached(KeyRequest::File(file))));
        assert_eq!(keyring.supply(KeyRequest::File(file)), Err(KeyFail::Rejected));
        assert!(keyring.fresh().is_err(), "the pool's keys were under the old one");
    }
}
