//! A KMS whose calls are told to the log.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::entry::{By, Detail, Operation, Verdict};
use super::trail::Trail;
use crate::ids::FileId;
use crate::kms::{
    Context, Generated, KeyArn, KeyRef, KeyService, KmsError, Rewrapped, Unwrapped, Wrapped,
};

/// Which of a mount's two doors to the KMS it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Data keys, and the volume key.
    Work,
    /// Heartbeats alone: what they make belongs to no file.
    Beats,
}

/// A KMS whose calls are told to the log. A call that a client tried again is one entry.
pub struct Audited {
    inner: Arc<dyn KeyService>,
    trail: Arc<Trail>,
    door: Door,
}

/// What a call's context says, with the prefix of its names left out.
struct Told<'a> {
    purpose: &'static str,
    file: Option<&'a str>,
    branch: Option<&'a str>,
}

impl<'a> Told<'a> {
    fn of(context: &'a Context, door: Door) -> Self {
        let find = |name: &str| context.pairs().find(|(n, _)| *n == name).map(|(_, v)| v);
        let purpose = match (door, find("kmsfs:use")) {
            (Door::Beats, _) => "heartbeat",
            (Door::Work, None) => "file",
            (Door::Work, Some("canary")) => "canary",
            (Door::Work, Some("branch")) => "branch",
            (Door::Work, Some(_)) => "volume",
        };
        Self { purpose, file: find("kmsfs:file"), branch: find("kmsfs:branch") }
    }
}

impl Audited {
    /// Tells `trail` of the calls to `inner`.
    pub fn new(inner: Arc<dyn KeyService>, trail: &Arc<Trail>, door: Door) -> Arc<Self> {
        Arc::new(Self { inner, trail: trail.clone(), door })
    }

    fn told<T>(
        &self,
        operation: Operation,
        (key, context): (&KeyRef, &Context),
        outcome: Result<T, KmsError>,
        master: impl Fn(&T) -> &KeyArn,
    ) -> Result<T, KmsError> {
        let Told { purpose, file, branch } = Told::of(context, self.door);
        let (verdict, code, key) = match &outcome {
            Ok(got) => {
                let master = master(got);
                if let (Door::Work, Some(Ok(file))) = (self.door, file.map(FileId::parse)) {
                    self.trail.remember(file, master);
                }
                (Verdict::Ok, None, master.0.clone())
            }
            Err(e) => (e.verdict.into(), Some(e.code.clone()), key.0.clone()),
        };
        let [file, branch] = [file, branch].map(|id| id.map(str::to_owned));
        let detail = Detail::Call { purpose, file, branch, key, outcome: verdict, code };
        self.trail.put(By::Daemon, operation, detail);
        outcome
    }
}

impl KeyService for Audited {
    fn parallelism(&self) -> usize {
        self.inner.parallelism()
    }

    fn fair_rate(&self) -> Option<NonZeroU32> {
        self.inner.fair_rate()
    }

    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        let made = self.inner.generate(key, context);
        self.told(Operation::GenerateDataKey, (key, context), made, |made| &made.master)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        let got = self.inner.decrypt(key, wrapped, context);
        self.told(Operation::Decrypt, (key, context), got, |got| &got.master)
    }

    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        let made = self.inner.reencrypt(wrapped, from, to);
        self.told(Operation::ReEncrypt, to, made, |made| &made.master)
    }
}
