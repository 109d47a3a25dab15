use std::os::unix::fs::{MetadataExt, PermissionsExt};

use tempfile::TempDir;

use super::*;
use crate::ids::VolumeId;
use crate::kms::{Context, KeyAdmin, KeyService, KeyState, Wrapped};

fn clear() -> (TempDir, PathBuf, LocalKms) {
    let temp = TempDir::new().expect("a temporary folder");
    let path = temp.path().join("a/keystore");
    let kms = LocalKms::create(&path, &Sealing::Clear).expect("created");
    (temp, path, kms)
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.as_bytes().to_vec())
}

fn context() -> Context {
    Context::volume(VolumeId([1; 16]))
}

fn code<T: std::fmt::Debug>(answer: Result<T, KmsError>) -> String {
    answer.expect_err("must fail").code
}

fn key_file(path: &Path, kms: &LocalKms, key: &KeyRef) -> PathBuf {
    path.join("keys").join(format!("{}.json", kms.describe(key).expect("described").id))
}

#[test]
fn a_sealed_keystore_is_administered_without_its_passphrase() {
    let temp = TempDir::new().expect("a temporary folder");
    let path = temp.path().join("keystore");
    let sealing = Sealing::Passphrase(passphrase("one"));
    let kms = LocalKms::create(&path, &sealing).expect("created");
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    let made = kms.generate(&key, &context()).expect("generated");
    assert!(LocalKms::is_sealed(&path).expect("readable"));

    let admin = LocalKms::open_admin(&path).expect("no passphrase");
    admin.set_alias("alias/a", &key).expect("aliased");
    admin.disable(&key).expect("disabled");
    assert_eq!(code(kms.generate(&key, &context())), "DisabledException");
    admin.enable(&key).expect("enabled");
    assert_eq!(admin.list().expect("listed").len(), 1);
    assert_eq!(code(admin.create("")), "PassphraseNeeded");
    assert_eq!(code(admin.rotate(&key)), "PassphraseNeeded");
    assert_eq!(code(admin.generate(&key, &context())), "PassphraseNeeded");
    let refused = admin.change_passphrase(&Sealing::Clear);
    assert!(matches!(refused, Err(KeystoreError::PassphraseNeeded { .. })));

    kms.change_passphrase(&Sealing::Passphrase(passphrase("two"))).expect("changed");
    let open = |text: Option<&str>| LocalKms::open(&path, text.map(passphrase).as_ref());
    assert!(matches!(open(Some("one")), Err(KeystoreError::WrongPassphrase { .. })));
    assert!(matches!(open(None), Err(KeystoreError::PassphraseNeeded { .. })));
    let again = open(Some("two")).expect("the new passphrase");
    let opened = again.decrypt(&key, &made.wrapped, &context()).expect("decrypted");
    assert_eq!(opened.key.expose(), made.key.expose());
    again.change_passphrase(&Sealing::Clear).expect("unsealed");
    assert!(!LocalKms::is_sealed(&path).expect("readable"));
    open(None).expect("no passphrase any more");
}

#[test]
fn only_an_absent_or_empty_folder_becomes_a_keystore() {
    let (temp, path, _kms) = clear();
    let again = LocalKms::create(&path, &Sealing::Clear);
    assert!(matches!(again, Err(KeystoreError::NotEmpty { .. })));
    let other = LocalKms::create(temp.path(), &Sealing::Clear);
    assert!(matches!(other, Err(KeystoreError::NotEmpty { .. })));
    assert!(!temp.path().join("keys").exists(), "nothing was touched");
    let none = LocalKms::open(&temp.path().join("none"), None);
    assert!(matches!(none, Err(KeystoreError::Missing { .. })));
    assert!(matches!(LocalKms::open_admin(temp.path()), Err(KeystoreError::Missing { .. })));
    // A creation that was cut off before its header can be repeated.
    std::fs::remove_file(path.join("keystore.json")).expect("removed");
    LocalKms::create(&path, &Sealing::Clear).expect("created");
}

#[test]
fn nobody_else_may_look() {
    let (_temp, path, kms) = clear();
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    let mode = |p: &Path| p.metadata().expect("there").permissions().mode() & 0o7777;
    for dir in [path.clone(), path.join("keys")] {
        assert_eq!(mode(&dir), 0o700, "{dir:?}");
    }
    let files = ["keystore.json", "aliases.json", "lock"].map(|name| path.join(name));
    for file in files.iter().chain([&key_file(&path, &kms, &key)]) {
        assert_eq!(mode(file), 0o600, "{file:?}");
    }
}

#[test]
fn a_change_is_seen_at_the_next_call_whatever_the_times_say() {
    let (_temp, path, kms) = clear();
    let admin = LocalKms::open_admin(&path).expect("opened");
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    for _ in 0..200 {
        kms.generate(&key, &context()).expect("enabled");
        admin.disable(&key).expect("disabled");
        assert_eq!(code(kms.generate(&key, &context())), "DisabledException");
        admin.enable(&key).expect("enabled");
    }
}

#[test]
fn a_settled_file_is_read_once_and_its_removal_seen() {
    let (_temp, path, kms) = clear();
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    let file = key_file(&path, &kms, &key);
    while now() < file.metadata().expect("there").ctime().unsigned_abs() + 3 {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    kms.generate(&key, &context()).expect("read");
    let entry = || kms.keys.lock().values().next().map(|c| c.value.clone()).expect("cached");
    let first = entry();
    kms.generate(&key, &context()).expect("cached");
    assert!(std::sync::Arc::ptr_eq(&first, &entry()));
    kms.disable(&key).expect("disabled");
    assert_eq!(code(kms.generate(&key, &context())), "DisabledException");
    assert!(entry().material.is_empty(), "a disabled key's material is not held");
    std::fs::remove_file(file).expect("removed");
    assert_eq!(code(kms.generate(&key, &context())), "NotFoundException");
    assert!(kms.keys.lock().is_empty());
}

#[test]
fn a_missing_keystore_is_unavailable_and_a_replaced_one_counts() {
    let (temp, path, kms) = clear();
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    let made = kms.generate(&key, &context()).expect("generated");
    let copy = temp.path().join("copy");
    kms.backup(&copy).expect("copied");
    assert!(matches!(kms.backup(&copy), Err(KeystoreError::NotEmpty { .. })));
    let away = temp.path().join("away");
    std::fs::rename(&path, &away).expect("moved");
    let error = kms.generate(&key, &context()).expect_err("gone");
    assert_eq!((error.verdict, error.code.as_str()), (Verdict::Unavailable, "KeystoreMissing"));
    std::fs::rename(&copy, &path).expect("restored");
    let opened = kms.decrypt(&key, &made.wrapped, &context()).expect("from the copy");
    assert_eq!(opened.key.expose(), made.key.expose());
    LocalKms::open_admin(&path).expect("opened").disable(&key).expect("disabled");
    assert_eq!(code(kms.generate(&key, &context())), "DisabledException");
}

#[test]
fn damaged_files_are_typed_errors() {
    let (_temp, path, kms) = clear();
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    kms.set_alias("alias/a", &key).expect("aliased");
    let alias = KeyRef("alias/a".to_owned());
    for file in [key_file(&path, &kms, &key), path.join("aliases.json")] {
        let whole = std::fs::read(&file).expect("read");
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x02;
            std::fs::write(&file, &bad).expect("written");
            let error = kms.generate(&alias, &context()).expect_err("damaged");
            assert_eq!(error.verdict, Verdict::Unavailable, "byte {at}: {error}");
            assert_eq!(code(kms.describe(&alias)), "KeystoreDamaged");
        }
        std::fs::write(&file, vec![b'x'; 3 << 20]).expect("written");
        assert_eq!(code(kms.generate(&alias, &context())), "KeystoreDamaged");
        std::fs::write(&file, &whole).expect("written");
        kms.generate(&alias, &context()).expect("whole again");
    }
    // Another key's damage does not stop the emergency.
    let other = kms.create("").expect("key");
    std::fs::write(key_file(&path, &kms, &(&other.arn).into()), b"{").expect("written");
    kms.disable(&key).expect("disabled all the same");
    assert_eq!(code(kms.list()), "KeystoreDamaged");
}

#[test]
fn past_its_date_a_key_is_gone_but_only_a_change_erases_it() {
    let (_temp, path, kms) = clear();
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    kms.set_alias("alias/a", &key).expect("aliased");
    let made = kms.generate(&key, &context()).expect("generated");
    let file = key_file(&path, &kms, &key);
    let id = Id::parse(&kms.describe(&key).expect("described").id).expect("its id");
    kms.schedule_deletion(&key, 7).expect("scheduled");
    let mut record = Record::parse(id, &std::fs::read(&file).expect("read")).expect("whole");
    assert_eq!(record.state, KeyState::PendingDeletion);
    record.deletion = Some(now() - 1);
    std::fs::write(&file, &record.encode()[..]).expect("written");

    assert_eq!(code(kms.decrypt(&key, &made.wrapped, &context())), "NotFoundException");
    assert_eq!(code(kms.generate(&KeyRef("alias/a".into()), &context())), "NotFoundException");
    assert_eq!(code(kms.describe(&key)), "NotFoundException");
    assert_eq!(code(kms.cancel_deletion(&key)), "NotFoundException");
    assert!(kms.list().expect("listed").is_empty());
    assert!(file.exists(), "nothing but a change erases");
    kms.create("").expect("a change");
    assert!(!file.exists());
    assert!(kms.aliases().expect("listed").is_empty());
}

#[test]
fn key_names_that_cannot_be() {
    let (_temp, _path, kms) = clear();
    let key = kms.create("").expect("key");
    let describe = |text: &str| kms.describe(&KeyRef(text.to_owned()));
    assert_eq!(describe(&key.id).expect("by id"), describe(&key.arn.0).expect("by ARN"));
    assert_eq!(code(describe("")), "ValidationException");
    assert_eq!(code(describe("../../etc/passwd")), "NotFoundException");
    assert_eq!(code(describe("arn:aws:kms:eu-west-1:1:key/x")), "InvalidArnException");
    let elsewhere = id::arn(Id::random(), Id::parse(&key.id).expect("its id"));
    assert_eq!(code(describe(&elsewhere.0)), "NotFoundException");
    assert_eq!(code(kms.create(&"x".repeat(8193))), "ValidationException");
    let wrapped = Wrapped(vec![0; 84]);
    let answer = kms.decrypt(&(&key.arn).into(), &wrapped, &context());
    assert_eq!(code(answer), "InvalidCiphertextException");
}

#[test]
fn changes_from_many_sides_are_all_kept() {
    let (_temp, path, kms) = clear();
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    std::thread::scope(|scope| {
        for side in 0..4 {
            let (path, key) = (&path, &key);
            scope.spawn(move || {
                let kms = LocalKms::open(path, None).expect("opened");
                for n in 0..5 {
                    kms.set_alias(&format!("alias/{side}-{n}"), key).expect("aliased");
                    kms.rotate(key).expect("rotated");
                }
            });
        }
    });
    assert_eq!(kms.aliases().expect("listed").len(), 20);
    assert_eq!(kms.describe(&key).expect("described").versions, Some(21));
}

/// A data key was unwrapped under what was read before, where the one system call says that the
/// file is the same: it has to say what the folder's own look says.
#[test]
fn a_keys_file_has_one_stamp_however_it_is_looked_at() {
    let (temp, path, kms) = clear();
    let key = KeyRef::from(&kms.create("").expect("key").arn);
    let file = key_file(&path, &kms, &key);
    let name = file.file_name().and_then(|name| name.to_str()).expect("text");
    let stamps = || {
        let folder = kms.place.open().and_then(|folder| folder.keys()).expect("opened");
        (kms.place.key_stamp(name), folder.stamp(name).expect("looked at"))
    };
    let (first, same) = stamps();
    assert!(first.is_some());
    assert_eq!(first, same);
    kms.disable(&key).expect("disabled");
    let (second, same) = stamps();
    assert_eq!(second, same);
    assert_ne!(second, first, "replaced");
    std::fs::rename(&path, temp.path().join("elsewhere")).expect("moved");
    assert_eq!(kms.place.key_stamp(name), None);
}
