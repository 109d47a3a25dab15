//! What needs the library in its own process: a library is loaded once into one, and finds its
//! tokens by a variable of the environment.

use std::process::Command;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use kmsfs::kms::pkcs11::{PinSource, Pkcs11Kms, Place};

use crate::support::hsm::{PIN, SoftHsm, TOKEN};
use crate::support::run;

/// Runs one of the ignored tests of this folder with these tokens.
pub(super) fn alone(hsm: &SoftHsm, name: &str) -> String {
    let this = std::env::current_exe().expect("a test binary");
    let said = run(Command::new(this)
        .args(["--exact", &format!("pkcs11::{name}"), "--ignored", "--nocapture"])
        .env("KMSFS_TEST_HSM", hsm.at(""))
        .envs(hsm.env()));
    assert!(said.contains("1 passed"), "{said}");
    said
}

/// The token of whoever called [`alone`].
pub(super) fn place() -> Place {
    let pin = std::env::var_os("KMSFS_PKCS11_PIN_FILE").expect("set by the parent");
    Place { module: SoftHsm::module(), token: TOKEN.to_owned(), pin: PinSource::File(pin.into()) }
}

/// A client of it.
pub(super) fn client() -> Pkcs11Kms {
    Pkcs11Kms::new(&place()).expect("a client")
}

/// A path in the folder of its tokens.
pub(super) fn at(name: &str) -> std::path::PathBuf {
    let folder = std::env::var_os("KMSFS_TEST_HSM").expect("set by the parent");
    std::path::Path::new(&folder).join(name)
}

/// The library as the provider has it, for this process has it once.
pub(super) fn library() -> Pkcs11 {
    let library = Pkcs11::new(SoftHsm::module()).expect("loaded");
    // Where the provider has not been there first.
    let _ = library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    library
}

/// A session that may write, logged in as everybody in this process then is.
pub(super) fn session() -> Session {
    let library = library();
    let slots = library.get_slots_with_token().expect("slots");
    let has = |slot: &_| library.get_token_info(*slot).is_ok_and(|t| t.label() == TOKEN);
    let session = library.open_rw_session(slots.into_iter().find(has).expect("the token"));
    let session = session.expect("a session");
    // Where nobody is yet.
    let _ = session.login(UserType::User, Some(&AuthPin::new(PIN.into())));
    session
}
