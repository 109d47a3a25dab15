//! A KMS whose calls are recorded in the log.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::entry::{By, Detail, Operation, Verdict};
use super::queue::AuditQueue;
use crate::ids::{BranchId, FileId};
use crate::kms::{
    Context, Generated, KeyArn, KeyRef, KeyService, KmsError, Rewrapped, Unwrapped, Wrapped,
};
use crate::secret::Key;

/// Which of a mount's two doors to the KMS it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientRole {
    /// Data keys, and the volume key.
    Work,
    /// Heartbeats alone: what they make belongs to no file.
    Beats,
}

/// A KMS whose calls are recorded in the log. A call that a client tried again is one entry.
pub struct Audited {
    inner: Arc<dyn KeyService>,
    audit_queue: Arc<AuditQueue>,
    door: ClientRole,
}

/// What a call's context says, with the prefix of its names left out.
struct CallDescription<'a> {
    purpose: &'static str,
    file: Option<&'a str>,
    branch: Option<&'a str>,
}

impl<'a> CallDescription<'a> {
    fn of(context: &'a Context, door: ClientRole) -> Self {
        let find = |name: &str| context.pairs().find(|(n, _)| *n == name).map(|(_, v)| v);
        let purpose = match (door, find("kmsfs:use")) {
            // A mount that follows a rewrap asks here too.
            (_, Some("volume")) => "volume",
            (ClientRole::Beats, _) => "heartbeat",
            (ClientRole::Work, None) => "file",
            (ClientRole::Work, Some("branch")) => "branch",
            (ClientRole::Work, Some(_)) => "canary",
        };
        Self { purpose, file: find("kmsfs:file"), branch: find("kmsfs:branch") }
    }
}

impl Audited {
    /// Tells the log of the calls to `inner`.
    pub fn new(
        inner: Arc<dyn KeyService>,
        audit_queue: &Arc<AuditQueue>,
        door: ClientRole,
    ) -> Arc<Self> {
        Arc::new(Self { inner, audit_queue: audit_queue.clone(), door })
    }

    fn remember(&self, file: Option<&str>, branch: Option<&str>, master: &KeyArn) {
        if let Some(Ok(file)) = file.map(FileId::parse) {
            self.audit_queue.origins.file_under(file, master);
        }
        if let Some(Ok(branch)) = branch.map(BranchId::parse) {
            self.audit_queue.origins.branch_under(branch, master);
        }
    }

    fn record<T>(
        &self,
        call: Call<'_>,
        outcome: Result<T, KmsError>,
        master: impl Fn(&T) -> &KeyArn,
    ) -> Result<T, KmsError> {
        let CallDescription { purpose, file, branch } =
            CallDescription::of(call.context, self.door);
        let (verdict, code, key) = match &outcome {
            Ok(got) => {
                let master = master(got);
                if self.door == ClientRole::Work {
                    self.remember(file, branch, master);
                }
                (Verdict::Ok, None, master.0.clone())
            }
            Err(e) => (e.verdict.into(), Some(e.code.clone()), call.key.0.clone()),
        };
        let [file, branch] = [file, branch].map(|id| id.map(str::to_owned));
        let from = call.from.map(|key| key.0.clone());
        let detail = Detail::Call { purpose, file, branch, from, key, outcome: verdict, code };
        self.audit_queue.put(By::Daemon, call.operation, detail);
        outcome
    }
}

/// What was asked.
struct Call<'a> {
    operation: Operation,
    key: &'a KeyRef,
    context: &'a Context,
    from: Option<&'a KeyRef>,
}

impl KeyService for Audited {
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
        let made = self.inner.generate(key, context);
        let operation = Operation::GenerateDataKey;
        self.record(Call { operation, key, context, from: None }, made, |made| &made.master)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        let got = self.inner.decrypt(key, wrapped, context);
        let operation = Operation::Decrypt;
        self.record(Call { operation, key, context, from: None }, got, |got| &got.master)
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        let made = self.inner.encrypt(to, plain, context);
        let operation = Operation::Encrypt;
        self.record(Call { operation, key: to, context, from: None }, made, |made| &made.master)
    }

    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        let made = self.inner.reencrypt(wrapped, from, to);
        let (operation, (key, context), from) = (Operation::ReEncrypt, to, Some(from.0));
        self.record(Call { operation, key, context, from }, made, |made| &made.master)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::keys::audit::Log;
    use crate::keys::fixture::kms;
    use crate::kms::KeyAdmin;

    /// Every kind of call to a keystore, answered and refused.
    #[test]
    fn each_call_is_told_with_its_purpose_its_key_and_what_came_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let volume = VolumeId([1; 16]);
        let log = Log::open(&path, &[], volume).expect("opened");
        let (file, branch) = (FileId([7; 16]), BranchId([8; 16]));
        let work = Audited::new(kms(), log.audit_queue(), ClientRole::Work);
        let beats = Audited::new(kms(), log.audit_queue(), ClientRole::Beats);
        let info = &kms().list().expect("listed")[0];
        let key = KeyRef(info.id.clone());
        let of_file = Context::file(volume, file);
        let made = work.generate(&key, &of_file).expect("made");
        work.generate(&key, &Context::volume(volume)).expect("made");
        work.generate(&key, &Context::canary(volume)).expect("made");
        work.generate(&key, &Context::branch(volume, branch)).expect("made");
        beats.generate(&key, &of_file).expect("made");
        beats.generate(&key, &Context::volume(volume)).expect("made");
        work.decrypt(&key, &made.wrapped, &of_file).expect("unwrapped");
        let wrong = work.decrypt(&key, &made.wrapped, &Context::canary(volume));
        let code = wrong.expect_err("another context").code;
        let absent = KeyRef("alias/absent".to_owned());
        work.generate(&absent, &of_file).expect_err("no such key");
        let to = Context::branch(volume, branch);
        work.encrypt(&key, &made.key, &of_file).expect("done");
        work.reencrypt(&made.wrapped, (&key, &of_file), (&key, &to)).expect("done");
        drop(log);

        let text = std::fs::read_to_string(&path).expect("readable");
        let start = "\"by\":\"daemon\",\"purpose\":";
        let told: Vec<_> = text
            .lines()
            .map(|line| {
                let line = line.strip_suffix('}').expect("an object");
                let (before, after) = line.split_once(start).expect("a call");
                let operation = before.split('"').nth(7).expect("an operation");
                format!("{operation} {}", after.replace('"', "")).replace(&info.arn.0, "ARN")
            })
            .collect();
        let wanted = [
            format!("GenerateDataKey file,file:{file},key:ARN,outcome:ok"),
            "GenerateDataKey volume,key:ARN,outcome:ok".to_owned(),
            "GenerateDataKey canary,key:ARN,outcome:ok".to_owned(),
            format!("GenerateDataKey branch,branch:{branch},key:ARN,outcome:ok"),
            format!("GenerateDataKey heartbeat,file:{file},key:ARN,outcome:ok"),
            "GenerateDataKey volume,key:ARN,outcome:ok".to_owned(),
            format!("Decrypt file,file:{file},key:ARN,outcome:ok"),
            format!("Decrypt canary,key:{key},outcome:rejected,code:{code}"),
            format!(
                "GenerateDataKey file,file:{file},key:{absent},outcome:refused,code:NotFoundException"
            ),
            format!("Encrypt file,file:{file},key:ARN,outcome:ok"),
            format!("ReEncrypt branch,branch:{branch},from:{key},key:ARN,outcome:ok"),
        ];
        assert_eq!(told, wanted);
    }
}
