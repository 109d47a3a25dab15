//! The provider alone, against the suite, and each answer that has a class.

use std::process::Command;

use crate::support::hsm::SoftHsm;
use crate::support::{fails, kmsfs, run, skipped};

use super::process::alone;

/// Runs a test of [`in_process`] on new tokens.
fn on_new_tokens(name: &str) {
    if !skipped("softhsm") {
        alone(&SoftHsm::new(), &format!("calls::in_process::{name}"));
    }
}

#[test]
fn softhsm_conforms() {
    on_new_tokens("conforms");
}

#[test]
fn keys_are_named_by_id_and_label() {
    on_new_tokens("names");
}

#[test]
fn each_answer_has_its_class() {
    on_new_tokens("classes");
}

#[test]
fn a_wrapped_key_of_format_1_opens() {
    on_new_tokens("golden");
}

/// A wrong PIN counts on a token, and locks it after a few.
#[test]
fn a_pin_that_was_refused_is_not_tried_again() {
    on_new_tokens("refused_pin");
}

/// A session that is logged out sees no private object: what it does not find may be there.
#[test]
fn a_session_that_is_lost_is_opened_again() {
    on_new_tokens("lost_sessions");
}

#[test]
fn a_token_that_is_taken_out_is_no_refusal() {
    on_new_tokens("taken_out");
}

/// What `kmsfs key` says.
#[test]
fn keys_are_administered_by_the_command() {
    if skipped("softhsm") {
        return;
    }
    let hsm = SoftHsm::new();
    let id = run(&mut hsm.key(&["create", "--alias", "db"])).trim().to_owned();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let listed = run(&mut hsm.key(&["list"]));
    assert_eq!(listed.split_whitespace().collect::<Vec<_>>(), [&id, "Enabled", "alias/db"]);
    let arn = format!("pkcs11:kmsfs%20test:key/{id}");
    for name in ["db", "alias/db", &id, &arn] {
        run(&mut hsm.key(&["disable", name]));
        let told = run(&mut hsm.key(&["describe", name]));
        assert!(told.contains("Disabled") && told.contains(&arn), "{told}");
        assert!(!told.contains("created"), "a token does not tell: {told}");
        run(&mut hsm.key(&["enable", name]));
    }
    for (verb, hint) in [
        (&["rotate", "db"][..], "rewrap"),
        (&["schedule-deletion", "db", "--yes"], "disable"),
        (&["cancel-deletion", "db"], "schedules none"),
        (&["alias", "set", "alias/x", "db"], "no aliases"),
        (&["alias", "remove", "alias/db"], "no aliases"),
        (&["create", "--alias", "db"], "there is a key of this name"),
    ] {
        let said = fails(&mut hsm.key(verb), 2);
        assert!(said.contains(hint), "{said}");
    }
    let said = fails(&mut hsm.key(&["disable", "absent"]), 5);
    assert!(said.contains("no such key"), "{said}");
}

/// What is missing is told, with what to type.
#[test]
fn a_token_is_named_by_its_user() {
    if skipped("softhsm") {
        return;
    }
    let hsm = SoftHsm::new();
    let module = SoftHsm::module().display().to_string();
    let with = |env: &[(&str, &str)]| -> Command {
        let mut command = kmsfs();
        command.args(["key", "--kms", "pkcs11", "list"]).envs([hsm.place()]);
        command.envs(env.iter().copied());
        command
    };
    let (library, token) =
        (("KMSFS_PKCS11_MODULE", &*module), ("KMSFS_PKCS11_TOKEN", "kmsfs test"));
    let pin = ("KMSFS_PKCS11_PIN", "73914");
    for (env, code, hint) in [
        (&[library, pin][..], 4, "--pkcs11-token"),
        (&[token, pin], 4, "--pkcs11-module"),
        (&[library, token], 4, "--pkcs11-pin-file"),
        (&[("KMSFS_PKCS11_MODULE", "/nowhere.so"), token, pin], 4, "--pkcs11-module"),
        (&[("KMSFS_PKCS11_MODULE", "/etc/passwd"), token, pin], 6, "ModuleNotLoaded"),
        (&[library, ("KMSFS_PKCS11_TOKEN", "another"), pin], 6, "no token with the label another"),
        (&[library, token, ("KMSFS_PKCS11_PIN", "0000")], 4, "PinIncorrect"),
    ] {
        let said = fails(&mut with(env), code);
        assert!(said.contains(hint), "{said}");
    }
    run(&mut with(&[library, token, pin]));
    // The credential of a systemd service.
    std::fs::write(hsm.at("kmsfs-pkcs11-pin"), "73914\n").expect("written");
    let folder = hsm.at("").display().to_string();
    run(&mut with(&[library, token, ("CREDENTIALS_DIRECTORY", &folder)]));
}

/// Each is run by one of those above, in a process of its own.
mod in_process {
    use std::time::Duration;

    use cryptoki::context::{CInitializeArgs, CInitializeFlags};
    use cryptoki::object::{Attribute, KeyType, ObjectClass};
    use cryptoki::session::SessionState;
    use data_encoding::HEXLOWER;
    use kmsfs::ids::VolumeId;
    use kmsfs::kms::pkcs11::{PinSource, Pkcs11Kms, Place};
    use kmsfs::kms::{Context, KeyAdmin, KeyRef, KeyService, KeyState, KmsError, Verdict, Wrapped};
    use kmsfs::secret::Key;

    use super::super::process::{at, client, library, place, session};
    use crate::conformance::{self, Gap};
    use crate::support::hsm::{PIN, TOKEN};
    use crate::support::wait_for;

    const SOFTHSM: &[Gap] = &[Gap::NoReEncrypt, Gap::NoRotation, Gap::NoAliases, Gap::NoDeletion];

    fn key(name: &str) -> KeyRef {
        KeyRef(name.to_owned())
    }

    fn class<T>(answer: Result<T, KmsError>) -> (Verdict, String) {
        let e = answer.err().expect("this call must fail");
        (e.verdict, e.code)
    }

    fn context() -> Context {
        Context::volume(VolumeId([9; 16]))
    }

    fn key_object(id: &[u8], label: &str, value: &[u8]) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Value(value.to_vec()),
            Attribute::Id(id.to_vec()),
            Attribute::Label(label.into()),
        ]
    }

    #[test]
    #[ignore = "run by another"]
    fn conforms() {
        let kms = client();
        conformance::run(&kms.sibling(), &kms, SOFTHSM);
        conformance::run(&kms, &kms, SOFTHSM);
    }

    #[test]
    #[ignore = "run by another"]
    fn names() {
        let kms = client();
        assert_eq!(kms.list().expect("an empty list"), []);
        let made = kms.create_as("alias/k-1", "").expect("made");
        assert_eq!(made.arn.0, format!("pkcs11:kmsfs%20test:key/{}", made.id));
        assert_eq!(
            (made.state, &made.aliases[..]),
            (KeyState::Enabled, &["alias/k-1".to_owned()][..])
        );
        for name in ["k-1", "alias/k-1", &made.id, &made.id.to_uppercase(), &made.arn.0] {
            assert_eq!(kms.describe(&key(name)).expect(name), made, "{name}");
            assert_eq!(kms.generate(&key(name), &context()).expect(name).master, made.arn);
        }
        let (verdict, code) = class(kms.create_as("alias/k-1", ""));
        assert_eq!((verdict, code.as_str()), (Verdict::Invalid, "AlreadyExistsException"));
        assert_eq!(class(kms.create_as("alias/two words", "")).0, Verdict::Invalid);

        let session = session();
        let object = |id: &[u8], label: &str, length: usize| {
            let object = key_object(id, label, &vec![1; length]);
            session.create_object(&object).expect("made");
        };
        object(b"\x01", "twice", 32);
        object(b"\x02", "twice", 32);
        object(b"\x03", "same-id", 32);
        object(b"\x03", "same-id-too", 32);
        object(b"", "no-id", 32);
        object(b"\x05", "short", 16);
        // An id comes before a label.
        object(b"\x06", "01", 32);
        for name in ["twice", "03", "no-id", "short"] {
            assert_eq!(class(kms.generate(&key(name), &context())).0, Verdict::Invalid, "{name}");
        }
        let of = |name: &str| kms.generate(&key(name), &context()).expect(name).master.0;
        assert_eq!(of("01"), "pkcs11:kmsfs%20test:key/01");
        assert_eq!(of("alias/01"), "pkcs11:kmsfs%20test:key/06");
        let listed: Vec<_> = kms.list().expect("listed").into_iter().map(|k| k.id).collect();
        assert_eq!(listed.len(), 6, "{listed:?}");
        assert!(listed.contains(&made.id) && !listed.contains(&"05".to_owned()));
        // A label that comes to be another key's.
        kms.generate(&key("alias/01"), &context()).expect("in a session that knows it");
        let by_label = |label: &str| [Attribute::Label(label.into())];
        let sixth = session.find_objects(&by_label("01")).expect("found")[0];
        session.update_attributes(sixth, &by_label("before")).expect("relabelled");
        object(b"\x07", "01", 32);
        assert_eq!(of("alias/01"), "pkcs11:kmsfs%20test:key/07");
    }

    #[test]
    #[ignore = "run by another"]
    fn classes() {
        let kms = client();
        let made = kms.create_as("alias/k", "").expect("made");
        let name = KeyRef::from(&made.arn);
        let wrapped = kms.generate(&name, &context()).expect("made").wrapped;
        let all = |key: &KeyRef| {
            [
                class(kms.generate(key, &context())),
                class(kms.decrypt(key, &wrapped, &context())),
                class(kms.encrypt(key, &Key::random(), &context())),
            ]
        };
        let refused = |code: &str| [(); 3].map(|()| (Verdict::Refused, code.to_owned()));
        assert_eq!(all(&key("absent")), refused("NotFoundException"));
        assert_eq!(all(&key("pkcs11:another:key/01")), refused("NotFoundException"));
        assert_eq!(all(&key("arn:aws:kms:eu-west-1:1:key/x")), refused("NotFoundException"));
        // In a session that knows the key, and by each attribute alone.
        let session = session();
        let id = HEXLOWER.decode(made.id.as_bytes()).expect("hex");
        let object = session.find_objects(&[Attribute::Id(id)]).expect("found")[0];
        let set =
            |attribute: Attribute| session.update_attributes(object, &[attribute]).expect("set");
        set(Attribute::Decrypt(false));
        let disabled = (Verdict::Refused, "DisabledException".to_owned());
        assert_eq!(class(kms.decrypt(&name, &wrapped, &context())), disabled);
        kms.generate(&name, &context()).expect("it may encrypt");
        assert_eq!(kms.describe(&name).expect("described").state, KeyState::Disabled);
        set(Attribute::Encrypt(false));
        assert_eq!(all(&name), refused("DisabledException"));
        // Where the wrapped key is bad too, the refusal counts.
        for bad in [Wrapped(b"garbage".to_vec()), Wrapped(vec![0; 100])] {
            assert_eq!(class(kms.decrypt(&name, &bad, &context())), disabled);
        }
        set(Attribute::Encrypt(true));
        set(Attribute::Decrypt(true));
        kms.decrypt(&name, &wrapped, &context()).expect("enabled again");
        session.destroy_object(object).expect("destroyed");
        assert_eq!(all(&name), refused("NotFoundException"));
        assert_eq!(all(&key("k")), refused("NotFoundException"));
        // A token may forbid that keys are changed.
        let mut fixed = key_object(b"\x09", "fixed", &[1; 32]);
        fixed.push(Attribute::Modifiable(false));
        session.create_object(&fixed).expect("made");
        let (verdict, code) = class(kms.disable(&key("fixed")));
        assert_eq!((verdict, code.as_str()), (Verdict::Invalid, "UnsupportedOperationException"));
        // Another client of this process, with the same login, and a token that there is not.
        let elsewhere = Place { token: "another".to_owned(), ..place() };
        let elsewhere = Pkcs11Kms::new(&elsewhere).expect("a client");
        let gone = (Verdict::Unavailable, "TokenNotPresent".to_owned());
        assert_eq!(class(elsewhere.generate(&key("k"), &context())), gone);
        kms.generate(&key("fixed"), &context()).expect("in a new session");
    }

    #[test]
    #[ignore = "run by another"]
    fn golden() {
        let kms = client();
        let session = session();
        session.create_object(&key_object(b"\xa1\xb2\xc3", "g", &[1; 32])).expect("made");
        let text = include_str!("../../../src/kms/pkcs11/golden-blob.hex");
        let wrapped = Wrapped(HEXLOWER.decode(text.trim_end().as_bytes()).expect("hex"));
        let opened = kms.decrypt(&key("g"), &wrapped, &context()).expect("format 1");
        assert_eq!(
            (opened.key.expose(), opened.master.0.as_str()),
            (&[2; 32], "pkcs11:kmsfs%20test:key/a1b2c3")
        );
        // Nonces are not used twice.
        let nonce = || kms.generate(&key("g"), &context()).expect("made").wrapped.0[8..20].to_vec();
        let nonces: std::collections::BTreeSet<_> = (0..200).map(|_| nonce()).collect();
        assert_eq!(nonces.len(), 200);
    }

    #[test]
    #[ignore = "run by another"]
    fn refused_pin() {
        let right = client();
        right.create_as("alias/k", "").expect("made");
        // Whoever closes the last session logs out.
        drop(right);
        let library = library();
        let slot = library.get_slots_with_token().expect("slots");
        let info = || {
            let infos = slot.iter().filter_map(|slot| library.get_token_info(*slot).ok());
            infos.into_iter().find(|info| info.label() == TOKEN).expect("the token")
        };
        wait_for("no session", Duration::from_secs(30), || {
            let probe = library.open_ro_session(slot[0]).expect("a session");
            probe.get_session_info().expect("told").session_state() == SessionState::RoPublic
        });
        let pin_file = at("pin");
        let write = |pin: &str| std::fs::write(&pin_file, format!("{pin}\n")).expect("written");
        let kms = client();
        let no = (Verdict::Credentials, "Pkcs11Pin".to_owned());
        write("00000");
        assert!(!info().user_pin_count_low());
        assert_eq!(class(kms.generate(&key("k"), &context())), no);
        assert!(info().user_pin_count_low(), "it was tried");
        // Somebody else logs in, which clears the count. The same PIN is not tried again, by
        // whichever client and however often.
        let clear = || {
            let session = session();
            assert!(!info().user_pin_count_low());
            session.logout().expect("logged out");
        };
        clear();
        let other = client();
        for _ in 0..5 {
            for kms in [&kms, &kms.sibling(), &other] {
                let e = kms.generate(&key("k"), &context()).expect_err("refused");
                assert!(e.message.contains("not tried again"), "{e}");
            }
        }
        assert!(!info().user_pin_count_low(), "it was not tried");
        write("11111");
        assert_eq!(class(kms.generate(&key("k"), &context())), no);
        assert!(info().user_pin_count_low(), "another is");
        write("");
        assert_eq!(class(kms.generate(&key("k"), &context())), no);
        std::fs::remove_file(&pin_file).expect("removed");
        assert_eq!(class(kms.generate(&key("k"), &context())), no);
        write(PIN);
        kms.generate(&key("k"), &context()).expect("the right one");
        let given =
            Place { pin: PinSource::Given(kmsfs::kms::pkcs11::Pin::new(b"22222")), ..place() };
        // The login is the process's: no PIN is asked for any more.
        let given = Pkcs11Kms::new(&given).expect("a client");
        given.generate(&key("k"), &context()).expect("logged in");
    }

    #[test]
    #[ignore = "run by another"]
    fn lost_sessions() {
        let kms = client();
        let beats = kms.sibling();
        let name = KeyRef::from(&kms.create_as("alias/k", "").expect("made").arn);
        let made = kms.generate(&name, &context()).expect("made");
        let all = || {
            for kms in [&kms, &beats] {
                for name in [&name, &key("k")] {
                    let opened = kms.decrypt(name, &made.wrapped, &context()).expect("opened");
                    assert_eq!(opened.key.expose(), made.key.expose());
                    kms.generate(name, &context()).expect("made");
                }
            }
        };
        all();
        for _ in 0..3 {
            session().logout().expect("logged out");
            all();
            // It is initialised again, a second after the last time at the earliest.
            let library = library();
            library.clone().finalize().expect("finalized");
            wait_for("the library", Duration::from_secs(20), || {
                beats.decrypt(&name, &made.wrapped, &context()).is_ok()
            });
            all();
            // Handles of sessions begin anew, and are other sessions'.
            library.clone().finalize().expect("finalized");
            library
                .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
                .expect("done");
            all();
            kms.forget();
            beats.forget();
            all();
        }
    }

    #[test]
    #[ignore = "run by another"]
    fn taken_out() {
        let kms = client();
        let beats = kms.sibling();
        let name = KeyRef::from(&kms.create_as("alias/k", "").expect("made").arn);
        let wrapped = kms.generate(&name, &context()).expect("made").wrapped;
        beats.decrypt(&name, &wrapped, &context()).expect("opened");
        let tokens = at("tokens");
        let token =
            std::fs::read_dir(&tokens).expect("listed").flatten().next().expect("one").path();
        let away = at("away").join(token.file_name().expect("a name"));
        for round in 0..3 {
            std::fs::rename(&token, &away).expect("moved");
            for kms in [&kms, &beats, &kms.sibling()] {
                for name in [&name, &key("k")] {
                    let answers = [
                        class(kms.decrypt(name, &wrapped, &context())),
                        class(kms.generate(name, &context())),
                    ];
                    for (verdict, code) in answers {
                        assert_eq!(verdict, Verdict::Unavailable, "{round}: {code}");
                    }
                }
            }
            std::fs::rename(&away, &token).expect("moved back");
            wait_for("the token", Duration::from_secs(20), || {
                beats.decrypt(&name, &wrapped, &context()).is_ok()
            });
            kms.decrypt(&name, &wrapped, &context()).expect("opened");
            kms.generate(&key("k"), &context()).expect("made");
        }
        // And with all of the folder, where the library cannot be initialised.
        std::fs::rename(&tokens, at("gone")).expect("moved");
        for _ in 0..2 {
            assert_eq!(class(beats.decrypt(&name, &wrapped, &context())).0, Verdict::Unavailable);
        }
        std::fs::rename(at("gone"), &tokens).expect("moved back");
        wait_for("the token", Duration::from_secs(20), || {
            beats.decrypt(&name, &wrapped, &context()).is_ok()
        });
    }
}
