//! How often a KMS was called: by operation, and by what came of it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{
    Context, Generated, KeyRef, KeyService, KmsError, Rewrapped, Unwrapped, Verdict, Wrapped,
};
use crate::metrics::{Histogram, Times};
use crate::secret::Key;

/// An operation and its outcomes so far. A call that a client tried again counts once.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Calls {
    /// As the AWS KMS API names it.
    pub operation: String,
    /// Good answers.
    pub ok: u64,
    /// The master key was refused.
    pub refused: u64,
    /// No answer that counts; missing and expired credentials among them.
    pub unavailable: u64,
    /// The wrapped key, or the request itself, was refused.
    pub rejected: u64,
}

impl Calls {
    /// All outcomes: each is paid for, if it reached the KMS.
    pub fn total(&self) -> u64 {
        self.ok + self.refused + self.unavailable + self.rejected
    }
}

#[derive(Debug, Default)]
struct Operation {
    ok: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    rejected: AtomicU64,
    times: Histogram,
}

impl Operation {
    fn call<T>(&self, call: impl FnOnce() -> Result<T, KmsError>) -> Result<T, KmsError> {
        let began = Instant::now();
        let outcome = call();
        self.times.record(began.elapsed());
        let counter = match outcome.as_ref().map_err(|e| e.verdict) {
            Ok(_) => &self.ok,
            Err(Verdict::Refused) => &self.refused,
            Err(verdict) if verdict.is_inconclusive() => &self.unavailable,
            Err(_) => &self.rejected,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    fn snapshot(&self, operation: &str) -> Calls {
        Calls {
            operation: operation.to_owned(),
            ok: self.ok.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            unavailable: self.unavailable.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
        }
    }
}

/// The counters of one or more clients.
#[derive(Debug, Default)]
pub struct Counters {
    generate: Operation,
    decrypt: Operation,
    reencrypt: Operation,
    encrypt: Operation,
}

impl Counters {
    /// By their names in the AWS KMS API.
    fn all(&self) -> [(&'static str, &Operation); 4] {
        [
            ("GenerateDataKey", &self.generate),
            ("Decrypt", &self.decrypt),
            ("ReEncrypt", &self.reencrypt),
            ("Encrypt", &self.encrypt),
        ]
    }

    /// The operations that were called at all.
    pub fn snapshot(&self) -> Vec<Calls> {
        let all = self.all().map(|(name, operation)| operation.snapshot(name));
        all.into_iter().filter(|calls| calls.total() > 0).collect()
    }

    /// How long the calls of each operation took, tries of a client again included.
    pub fn times(&self) -> Vec<(&'static str, Times)> {
        let all = self.all().map(|(name, operation)| (name, operation.times.times()));
        all.into_iter().filter(|(_, times)| times.count() > 0).collect()
    }
}

/// A KMS whose calls are counted.
pub struct Counted {
    inner: Arc<dyn KeyService>,
    counters: Arc<Counters>,
}

impl Counted {
    /// Counts the calls to `inner`.
    pub fn new(inner: Arc<dyn KeyService>, counters: &Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { inner, counters: counters.clone() })
    }
}

impl KeyService for Counted {
    fn parallelism(&self) -> usize {
        self.inner.parallelism()
    }

    fn fair_rate(&self) -> Option<NonZeroU32> {
        self.inner.fair_rate()
    }

    fn has_reencrypt(&self) -> bool {
        self.inner.has_reencrypt()
    }

    fn forget(&self) {
        self.inner.forget();
    }

    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        self.counters.generate.call(|| self.inner.generate(key, context))
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        self.counters.decrypt.call(|| self.inner.decrypt(key, wrapped, context))
    }

    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        self.counters.reencrypt.call(|| self.inner.reencrypt(wrapped, from, to))
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        self.counters.encrypt.call(|| self.inner.encrypt(to, plain, context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_its_counter() {
        let operation = Operation::default();
        let verdicts = [
            Verdict::Refused,
            Verdict::Unavailable,
            Verdict::Credentials,
            Verdict::ThisKey,
            Verdict::Invalid,
        ];
        operation.call(|| Ok(())).expect("it passes through");
        for verdict in verdicts {
            let failed: Result<(), _> = Err(KmsError::new(verdict, "Code", "why"));
            assert!(operation.call(|| failed).is_err());
        }
        let snapshot = operation.snapshot("Decrypt");
        assert_eq!(
            (snapshot.ok, snapshot.refused, snapshot.unavailable, snapshot.rejected),
            (1, 1, 2, 2)
        );
        assert_eq!(snapshot.total(), 6);
        assert_eq!(operation.times.times().count(), 6);
    }
}
