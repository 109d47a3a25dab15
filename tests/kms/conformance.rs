//! What every KMS must do, written against the traits alone.

use kmsfs::ids::{FileId, PageId, VolumeId};
use kmsfs::kms::{
    Context, KeyAdmin, KeyArn, KeyRef, KeyService, KeyState, KmsError, Verdict, Wrapped,
};
use kmsfs::secret::Key;

/// What a server is known to do otherwise than AWS KMS. The checks that this touches are left
/// out by name, and counted in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// A damaged wrapped key decrypts, to a wrong key.
    Unauthenticated,
    /// A damaged wrapped key is NotFoundException.
    DamagedIsNotFound,
    /// The demanded key is used, whatever the wrapped key is under.
    DemandedKeyIgnored,
    /// Decrypt by an alias that was pointed elsewhere is NotFoundException.
    MovedAliasIsNotFound,
    /// No ReEncrypt.
    NoReEncrypt,
    /// No RotateKeyOnDemand.
    NoRotation,
    /// A wrapped key does not say what it is under: another key's is InvalidCiphertextException.
    KeyNotNamed,
    /// No aliases.
    NoAliases,
    /// No ScheduleKeyDeletion.
    NoDeletion,
    /// States that forbid an administrative call do not.
    LaxStates,
    /// A malformed alias name is taken.
    LaxNames,
}

/// A provider under test, and what is the same in each case.
struct Suite<'a> {
    service: &'a dyn KeyService,
    admin: &'a dyn KeyAdmin,
    gaps: &'a [Gap],
    context: Context,
}

/// Runs the whole suite. It leaves keys pending deletion behind.
pub fn run(service: &dyn KeyService, admin: &dyn KeyAdmin, gaps: &[Gap]) {
    let suite = Suite { service, admin, gaps, context: Context::volume(VolumeId::random()) };
    suite.a_generated_key_decrypts_with_its_context_only();
    suite.damaged_wrapped_keys_are_invalid_ciphertext();
    suite.the_demanded_key_is_checked();
    suite.a_disabled_key_is_refused_until_enabled();
    suite.deletion_is_scheduled_and_cancelled();
    suite.reencrypt_changes_key_and_context();
    suite.a_key_that_there_is_can_be_wrapped();
    suite.rotation_keeps_old_wrapped_keys();
    suite.aliases_point_and_move();
    suite.unknown_keys_are_not_found();
}

fn assert_is<T: std::fmt::Debug>(answer: Result<T, KmsError>, verdict: Verdict, codes: &[&str]) {
    let error = answer.expect_err("this call must fail");
    assert_eq!(error.verdict, verdict, "{error}");
    assert!(codes.contains(&error.code.as_str()), "{error}, not one of {codes:?}");
}

const PENDING: &[&str] = &["KMSInvalidStateException", "DisabledException"];

impl Suite<'_> {
    /// Whether a check is left out for this server.
    fn lacks(&self, gap: Gap, check: &str) -> bool {
        let lacks = self.gaps.contains(&gap);
        if lacks {
            eprintln!("SKIPPED: {check} ({gap:?})");
        }
        lacks
    }

    fn new_key(&self) -> KeyArn {
        self.admin.create("conformance").expect("CreateKey").arn
    }

    fn wrapped(&self, key: &KeyArn) -> Wrapped {
        self.service.generate(&key.into(), &self.context).expect("GenerateDataKey").wrapped
    }

    fn a_generated_key_decrypts_with_its_context_only(&self) {
        let key = self.new_key();
        let made = self.service.generate(&(&key).into(), &self.context).expect("GenerateDataKey");
        assert_eq!(made.master, key);
        let opened = self.service.decrypt(&(&key).into(), &made.wrapped, &self.context);
        let opened = opened.expect("Decrypt");
        assert_eq!((opened.key.expose(), &opened.master), (made.key.expose(), &key));
        let again = self.service.generate(&(&key).into(), &self.context).expect("again");
        assert_ne!(again.key.expose(), made.key.expose());
        let (volume, page) = (VolumeId::random(), PageId::random());
        for other in [
            Context::volume(volume),
            Context::canary(volume),
            Context::file(volume, FileId::new(page, 0)),
        ] {
            let answer = self.service.decrypt(&(&key).into(), &made.wrapped, &other);
            assert_is(answer, Verdict::ThisKey, &["InvalidCiphertextException"]);
        }
    }

    fn damaged_wrapped_keys_are_invalid_ciphertext(&self) {
        for gap in [Gap::Unauthenticated, Gap::DamagedIsNotFound] {
            if self.lacks(gap, "damaged wrapped keys") {
                return;
            }
        }
        let key = self.new_key();
        let whole = self.wrapped(&key);
        let mut bad: Vec<Vec<u8>> = vec![b"garbage".to_vec(), vec![0; 6144]];
        bad.push(whole.0[..whole.0.len() - 1].to_vec());
        for at in 0..whole.0.len() {
            let mut bytes = whole.0.clone();
            bytes[at] ^= 0x40;
            bad.push(bytes);
        }
        for bytes in bad {
            let answer = self.service.decrypt(&(&key).into(), &Wrapped(bytes), &self.context);
            // A changed key id in the blob may read as another key's.
            let codes = &["InvalidCiphertextException", "IncorrectKeyException"];
            assert_is(answer, Verdict::ThisKey, codes);
        }
    }

    fn a_key_that_there_is_can_be_wrapped(&self) {
        let (key, plain) = (self.new_key(), Key::random());
        let made = self.service.encrypt(&(&key).into(), &plain, &self.context).expect("Encrypt");
        assert_eq!(made.master, key);
        let opened = self.service.decrypt(&(&key).into(), &made.wrapped, &self.context);
        assert_eq!(opened.expect("Decrypt").key.expose(), plain.expose());
        let other = Context::volume(VolumeId::random());
        let answer = self.service.decrypt(&(&key).into(), &made.wrapped, &other);
        assert_is(answer, Verdict::ThisKey, &["InvalidCiphertextException"]);
        self.admin.disable(&(&key).into()).expect("DisableKey");
        let refused = self.service.encrypt(&(&key).into(), &plain, &self.context);
        assert_is(refused, Verdict::Refused, &["DisabledException"]);
    }

    fn the_demanded_key_is_checked(&self) {
        if self.lacks(Gap::DemandedKeyIgnored, "the demanded key") {
            return;
        }
        let (key, other) = (self.new_key(), self.new_key());
        let wrapped = self.wrapped(&key);
        let answer = self.service.decrypt(&(&other).into(), &wrapped, &self.context);
        let unnamed = self.lacks(Gap::KeyNotNamed, "the code for another key's");
        let code = if unnamed { "InvalidCiphertextException" } else { "IncorrectKeyException" };
        assert_is(answer, Verdict::ThisKey, &[code]);
        if self.lacks(Gap::NoReEncrypt, "the demanded key of ReEncrypt") {
            return;
        }
        let (from, to) = (KeyRef::from(&other), KeyRef::from(&key));
        let answer = self.service.reencrypt(&wrapped, (&from, &self.context), (&to, &self.context));
        assert_is(answer, Verdict::ThisKey, &["IncorrectKeyException"]);
    }

    /// Every cryptographic call with `key` is refused with one of `codes`.
    fn assert_refused(&self, key: &KeyArn, wrapped: &Wrapped, codes: &[&str]) {
        let (key, other) = (KeyRef::from(key), KeyRef::from(&self.new_key()));
        let context = &self.context;
        assert_is(self.service.generate(&key, context), Verdict::Refused, codes);
        assert_is(self.service.decrypt(&key, wrapped, context), Verdict::Refused, codes);
        if !self.lacks(Gap::NoRotation, "rotation of a key that is refused") {
            assert_is(self.admin.rotate(&key), Verdict::Refused, codes);
        }
        if self.lacks(Gap::NoReEncrypt, "ReEncrypt of a key that is refused") {
            return;
        }
        let from = self.service.reencrypt(wrapped, (&key, context), (&other, context));
        assert_is(from, Verdict::Refused, codes);
        let theirs = self.service.generate(&other, context).expect("another key").wrapped;
        let to = self.service.reencrypt(&theirs, (&other, context), (&key, context));
        assert_is(to, Verdict::Refused, codes);
    }

    fn a_disabled_key_is_refused_until_enabled(&self) {
        let arn = self.new_key();
        let (key, wrapped) = (KeyRef::from(&arn), self.wrapped(&arn));
        for _ in 0..2 {
            self.admin.disable(&key).expect("DisableKey, which may be repeated");
        }
        assert_eq!(self.admin.describe(&key).expect("DescribeKey").state, KeyState::Disabled);
        self.assert_refused(&arn, &wrapped, &["DisabledException"]);
        for _ in 0..2 {
            self.admin.enable(&key).expect("EnableKey, which may be repeated");
        }
        self.service.decrypt(&key, &wrapped, &self.context).expect("enabled again");
    }

    fn deletion_is_scheduled_and_cancelled(&self) {
        if self.lacks(Gap::NoDeletion, "deletion is scheduled and cancelled") {
            return;
        }
        let arn = self.new_key();
        let (key, wrapped) = (KeyRef::from(&arn), self.wrapped(&arn));
        for days in [0, 6, 31, u32::MAX] {
            let answer = self.admin.schedule_deletion(&key, days);
            assert_is(answer, Verdict::Invalid, &["ValidationException"]);
        }
        let lax = self.lacks(Gap::LaxStates, "administration in a state that forbids it");
        if !lax {
            let early = self.admin.cancel_deletion(&key);
            assert_is(early, Verdict::Refused, &["KMSInvalidStateException"]);
        }
        let at = self.admin.schedule_deletion(&key, 7).expect("ScheduleKeyDeletion");
        let info = self.admin.describe(&key).expect("DescribeKey");
        assert_eq!((info.state, info.deletion), (KeyState::PendingDeletion, Some(at)));
        self.assert_refused(&arn, &wrapped, PENDING);
        let forbidden: [&dyn Fn() -> Result<(), KmsError>; 3] =
            [&|| self.admin.disable(&key), &|| self.admin.enable(&key), &|| {
                self.admin.schedule_deletion(&key, 7).map(drop)
            }];
        for call in forbidden.iter().filter(|_| !lax) {
            assert_is(call(), Verdict::Refused, &["KMSInvalidStateException"]);
        }
        self.admin.cancel_deletion(&key).expect("CancelKeyDeletion");
        let info = self.admin.describe(&key).expect("DescribeKey");
        assert_eq!((info.state, info.deletion), (KeyState::Disabled, None));
        self.admin.enable(&key).expect("EnableKey");
        self.service.decrypt(&key, &wrapped, &self.context).expect("enabled again");
    }

    fn reencrypt_changes_key_and_context(&self) {
        if self.lacks(Gap::NoReEncrypt, "reencrypt changes key and context") {
            return;
        }
        let (from, to) = (self.new_key(), self.new_key());
        let (old, new) = (KeyRef::from(&from), KeyRef::from(&to));
        let made = self.service.generate(&old, &self.context).expect("GenerateDataKey");
        let other = Context::canary(VolumeId::random());
        let moved = self
            .service
            .reencrypt(&made.wrapped, (&old, &self.context), (&new, &other))
            .expect("ReEncrypt");
        assert_eq!(moved.master, to);
        let opened = self.service.decrypt(&new, &moved.wrapped, &other).expect("Decrypt");
        assert_eq!(opened.key.expose(), made.key.expose());
        let under_old = self.service.decrypt(&old, &moved.wrapped, &other);
        assert_is(under_old, Verdict::ThisKey, &["IncorrectKeyException"]);
        let wrong = self.service.reencrypt(&made.wrapped, (&old, &other), (&new, &other));
        assert_is(wrong, Verdict::ThisKey, &["InvalidCiphertextException"]);
    }

    fn rotation_keeps_old_wrapped_keys(&self) {
        if self.lacks(Gap::NoRotation, "rotation keeps old wrapped keys") {
            return;
        }
        let arn = self.new_key();
        let key = KeyRef::from(&arn);
        let mut all = vec![self.service.generate(&key, &self.context).expect("version 1")];
        for _ in 0..3 {
            self.admin.rotate(&key).expect("RotateKeyOnDemand");
            all.push(self.service.generate(&key, &self.context).expect("a later version"));
        }
        for made in &all {
            let opened = self.service.decrypt(&key, &made.wrapped, &self.context);
            assert_eq!(opened.expect("Decrypt").key.expose(), made.key.expose());
        }
    }

    fn aliases_point_and_move(&self) {
        if self.lacks(Gap::NoAliases, "aliases point and move") {
            return;
        }
        let (first, second) = (self.new_key(), self.new_key());
        let name = format!("alias/conformance-{}", VolumeId::random());
        let alias = KeyRef(name.clone());
        let other = format!("{name}/b");
        self.admin.set_alias(&name, &(&first).into()).expect("CreateAlias");
        self.admin.set_alias(&other, &(&first).into()).expect("a second alias");
        let info = self.admin.describe(&alias).expect("DescribeKey by alias");
        assert_eq!((&info.arn, info.aliases), (&first, vec![name.clone(), other.clone()]));
        let made = self.service.generate(&alias, &self.context).expect("by alias");
        assert_eq!(made.master, first, "the answer names the key, never the alias");
        self.admin.set_alias(&name, &(&second).into()).expect("UpdateAlias");
        let moved = [Gap::DemandedKeyIgnored, Gap::MovedAliasIsNotFound];
        if !moved.iter().any(|gap| self.lacks(*gap, "an alias that was pointed elsewhere")) {
            let moved = self.service.decrypt(&alias, &made.wrapped, &self.context);
            assert_is(moved, Verdict::ThisKey, &["IncorrectKeyException"]);
        }
        let listed = self.admin.aliases().expect("ListAliases");
        let target = |name: &str| listed.iter().find(|a| a.name == name).map(|a| a.target.clone());
        let second_id = self.admin.describe(&(&second).into()).expect("DescribeKey").id;
        assert_eq!((target(&name), target(&other)), (Some(second_id), Some(info.id)));
        self.admin.remove_alias(&name).expect("DeleteAlias");
        assert_is(self.admin.remove_alias(&name), Verdict::Refused, &["NotFoundException"]);
        self.admin.remove_alias(&other).expect("DeleteAlias");
        let gone = self.service.generate(&alias, &self.context);
        assert_is(gone, Verdict::Refused, &["NotFoundException"]);
        if self.lacks(Gap::LaxNames, "a malformed alias name") {
            return;
        }
        let bad = self.admin.set_alias("no prefix", &(&first).into());
        assert_is(bad, Verdict::Invalid, &["ValidationException"]);
    }

    fn unknown_keys_are_not_found(&self) {
        let key = KeyRef("00000000-0000-4000-8000-000000000000".to_owned());
        let wrapped = self.wrapped(&self.new_key());
        if !self.lacks(Gap::DemandedKeyIgnored, "Decrypt under a key that is not there") {
            let answer = self.service.decrypt(&key, &wrapped, &self.context);
            assert_is(answer, Verdict::Refused, &["NotFoundException"]);
        }
        for answer in [
            self.service.generate(&key, &self.context).map(drop),
            self.admin.describe(&key).map(drop),
            self.admin.disable(&key),
        ] {
            assert_is(answer, Verdict::Refused, &["NotFoundException"]);
        }
    }
}
