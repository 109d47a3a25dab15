//! What all requests of a mount share.

use std::io;
use std::sync::Arc;

use super::runner::Runner;
use crate::fs::Fs;
use crate::keys::audit::AuditQueue;
use crate::metrics::Requests;

/// What the requests of a mount share, whatever thread they run on.
pub struct Shared {
    /// The filesystem.
    pub fs: Fs,
    /// Where uses of keys are told, if anywhere.
    pub audit_queue: Option<Arc<AuditQueue>>,
    /// What they have been so far.
    pub counted: Requests,
    pub(super) runner: Arc<Runner>,
}

impl Shared {
    /// Nothing runs yet.
    pub fn new(fs: Fs, audit_queue: Option<Arc<AuditQueue>>) -> Arc<Self> {
        let keyring = fs.keyring();
        let runner = Runner::new(keyring.gate().clone(), keyring.answers().clone());
        Arc::new(Self { fs, audit_queue, counted: Requests::default(), runner: Arc::new(runner) })
    }

    /// Starts as many threads for requests that do not run where they came from.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(&self, threads: usize) -> io::Result<()> {
        self.runner.start(threads)
    }

    /// Ends those threads. What is parked or queued is refused.
    pub fn stop(&self) {
        self.runner.stop();
    }

    /// How many requests are parked.
    pub fn parked(&self) -> usize {
        self.runner.parked()
    }
}
