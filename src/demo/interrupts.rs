//! Signals that end the demonstration early.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::console::failure::{Exit, Failure};

/// Whether one has come.
pub struct Interrupts(Arc<AtomicBool>);

impl Interrupts {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on.
    ///
    /// # Errors
    /// Of sigaction(2).
    pub fn catch() -> Result<Self, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, flag.clone())
                .map_err(|e| Failure::io(Path::new("signals"), &e))?;
        }
        Ok(Self(flag))
    }

    /// That none has come.
    ///
    /// # Errors
    /// When one has.
    pub fn check(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Failure::new(Exit::Failed, "interrupted; everything is taken down"));
        }
        Ok(())
    }
}
