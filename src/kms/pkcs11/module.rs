//! The module: a library that is loaded into this process once, and stays.
//!
//! It is initialised once for all who use it, and anew where a token has gone: some modules,
//! SoftHSM among them, look for tokens at that time alone. That ends every session. Whoever makes a
//! call is *inside* of the module, and it is initialised anew while nobody is. A session belongs to
//! a generation of the module; in another, its handle may be somebody else's.

use std::collections::BTreeMap;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::errors;
use super::token::Token;
use crate::clock::Moment;
use crate::kms::{KmsError, Verdict};

/// Between two initialisations.
const APART: Duration = Duration::from_secs(1);
/// How long one waits for calls of others to end: one that hangs holds it up.
const PATIENCE: Duration = Duration::from_secs(1);

/// Every module of this process, by its path.
static LOADED: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A module.
pub(super) struct Module {
    path: PathBuf,
    library: RwLock<Library>,
    tokens: Mutex<BTreeMap<String, Arc<Token>>>,
}

#[derive(Default)]
struct Library {
    loaded: Option<Pkcs11>,
    /// Counts initialisations; 0 before the first.
    generation: u64,
    /// When the last was tried, and what came of it.
    last: Option<(Moment, Result<(), KmsError>)>,
}

/// While there is one, the module is not initialised anew.
pub(super) struct Inside<'a> {
    library: RwLockReadGuard<'a, Library>,
}

impl Inside<'_> {
    /// The module's functions.
    pub(super) fn pkcs11(&self) -> &Pkcs11 {
        self.library.loaded.as_ref().expect("nobody is let in before it is loaded")
    }

    /// Which initialisation this is.
    pub(super) fn generation(&self) -> u64 {
        self.library.generation
    }
}

impl Module {
    /// The module in this file. It is loaded when it is first entered.
    pub(super) fn at(path: &Path) -> Arc<Self> {
        let mut loaded = LOADED.lock();
        let module = loaded.entry(path.to_owned()).or_insert_with(|| {
            Arc::new(Self {
                path: path.to_owned(),
                library: RwLock::default(),
                tokens: Mutex::default(),
            })
        });
        module.clone()
    }

    /// The token with this label: one for all of this process, for its login is.
    pub(super) fn token(&self, label: &str) -> Arc<Token> {
        let mut tokens = self.tokens.lock();
        tokens.entry(label.to_owned()).or_insert_with(|| Arc::new(Token::new(label))).clone()
    }

    /// Enters, and first loads and initialises it where that is yet to be done.
    ///
    /// # Errors
    /// `Unavailable` where it cannot be loaded or initialised.
    pub(super) fn enter(&self) -> Result<Inside<'_>, KmsError> {
        for _ in 0..2 {
            let library = self.library.read();
            let last = library.last.as_ref().map(|(at, outcome)| (*at, outcome.is_ok()));
            if let Some((_, true)) = last {
                return Ok(Inside { library });
            }
            let seen = (library.generation, last.map(|(at, _)| at));
            drop(library);
            self.begin(seen)?;
        }
        Err(self.no("it was initialised, and is not"))
    }

    /// Initialises it anew, unless somebody else has since `seen`, or a moment ago.
    ///
    /// # Errors
    /// `Unavailable` where that fails, or a call hangs in the module.
    pub(super) fn renew(&self, seen: u64) -> Result<(), KmsError> {
        let at = self.library.read().last.as_ref().map(|(at, _)| *at);
        self.begin((seen, at))
    }

    fn begin(&self, (seen, at): (u64, Option<Moment>)) -> Result<(), KmsError> {
        let Some(mut library) = self.library.try_write_for(PATIENCE) else {
            return Err(self.no("a call hangs in it"));
        };
        let now = Moment::now();
        if let Some((last, outcome)) = &library.last
            && (library.generation != seen || Some(*last) != at || now.since(*last) < APART)
        {
            return outcome.clone();
        }
        let outcome = self.initialise(&mut library);
        library.last = Some((Moment::now(), outcome.clone()));
        outcome
    }

    fn initialise(&self, library: &mut Library) -> Result<(), KmsError> {
        let said = |e: Error| errors::of(&format!("the module {}", self.path.display()), &e);
        let pkcs11 = match &library.loaded {
            Some(pkcs11) => pkcs11.clone(),
            None => {
                let pkcs11 = Pkcs11::new(&self.path).map_err(said)?;
                library.loaded.insert(pkcs11).clone()
            }
        };
        if library.generation > 0 {
            match pkcs11.clone().finalize() {
                Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => {}
                // What comes next says whether it matters.
                Err(e) => log::warn!("{}", said(e)),
            }
        }
        library.generation += 1;
        match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(e) => return Err(said(e)),
        }
        AT_EXIT.call_once(leave_before_exit);
        Ok(())
    }

    /// Lets nobody in any more.
    fn close(&self) {
        // Where a call hangs, it is not long to be waited for.
        if let Some(library) = self.library.try_write_for(PATIENCE) {
            mem::forget(library);
        }
    }

    fn no(&self, why: &str) -> KmsError {
        let why = format!("the module {}: {why}", self.path.display());
        KmsError::new(Verdict::Unavailable, "ModuleNotReady", why)
    }
}

static AT_EXIT: Once = Once::new();

/// Has nobody inside of a module when its destructors run, at the end of the process: a thread that
/// closed its session crashed in SoftHSM's. What is registered last runs first, so this is done
/// when the library, and what it needs, has been loaded and initialised.
#[allow(unsafe_code)]
fn leave_before_exit() {
    extern "C" fn close_all() {
        let modules: Vec<_> = LOADED.lock().values().cloned().collect();
        modules.iter().for_each(|module| module.close());
    }
    // SAFETY: the function is there for as long as the process is, and does not unwind.
    if unsafe { libc::atexit(close_all) } != 0 {
        log::warn!("cannot have the module closed at the end of the process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_module_is_an_outage() {
        for path in ["/nowhere/at/all.so", "/etc/passwd"] {
            let module = Module::at(Path::new(path));
            for _ in 0..2 {
                let e = module.enter().err().expect("it is no module");
                let class = (e.verdict, e.code.as_str());
                assert_eq!(class, (Verdict::Unavailable, "ModuleNotLoaded"), "{e}");
                assert!(e.message.contains(path), "{e}");
            }
        }
    }

    #[test]
    fn a_process_has_a_module_and_a_token_once() {
        let path = Path::new("/nowhere/at/all.so");
        let (one, other) = (Module::at(path), Module::at(path));
        assert!(Arc::ptr_eq(&one, &other));
        assert!(Arc::ptr_eq(&one.token("a"), &other.token("a")));
    }
}
