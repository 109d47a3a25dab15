//! The cryptographic calls.

use std::num::NonZeroU32;

use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use zeroize::Zeroize;

use super::client::AwsKms;
use super::errors::malformed;
use crate::kms::{
    Context, Generated, KeyArn, KeyRef, KeyService, KmsError, MAX_WRAPPED, Rewrapped, Unwrapped,
    Verdict, Wrapped,
};
use crate::secret::Key;

type Pairs = std::collections::HashMap<String, String>;

fn pairs(context: &Context) -> Pairs {
    context.pairs().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// The key in an answer, whose buffer is wiped; `None` unless it has 32 bytes.
fn key_of(plaintext: Blob) -> Option<Key> {
    let mut bytes = plaintext.into_inner();
    let key = Key::from_slice(&bytes);
    bytes.zeroize();
    key
}

/// The wrapped key and the master key of an answer.
fn wrapped_of(
    what: &str,
    blob: Option<Blob>,
    master: Option<String>,
) -> Result<(Wrapped, KeyArn), KmsError> {
    let wrapped = blob.map(Blob::into_inner).unwrap_or_default();
    if wrapped.is_empty() || wrapped.len() > MAX_WRAPPED {
        let why = format!("the answer has a wrapped key of {} bytes", wrapped.len());
        return Err(malformed(what, &why));
    }
    Ok((Wrapped(wrapped), arn_of(what, master)?))
}

fn arn_of(what: &str, master: Option<String>) -> Result<KeyArn, KmsError> {
    let arn = master.filter(|m| m.starts_with("arn:") && m.contains(":key/"));
    arn.map(KeyArn).ok_or_else(|| malformed(what, "the answer names no key"))
}

/// Whether an answer's key is the demanded one. What an alias points to only the KMS knows.
fn is_demanded(demanded: &KeyRef, answered: &KeyArn) -> bool {
    let text = demanded.0.as_str();
    if text.starts_with("alias/") || text.contains(":alias/") {
        return true;
    }
    text == answered.0 || answered.0.rsplit_once(":key/").is_some_and(|(_, id)| id == text)
}

/// Refuses an answer under another key than the demanded one: some servers ignore a wrong key.
fn check(what: &str, demanded: &KeyRef, answered: &KeyArn) -> Result<(), KmsError> {
    if is_demanded(demanded, answered) {
        return Ok(());
    }
    let why = format!("{what}: the wrapped key is under {answered}, not under {demanded}");
    Err(KmsError::new(Verdict::ThisKey, "IncorrectKeyException", why))
}

/// What a mount asks for at once, where it wants so much: at 10 ms a call that is 6,400 keys a second.
/// With many more, a slow server would be so busy that heartbeats wait.
const PARALLELISM: usize = 64;

/// A fifth of the smallest quota that a region has for these calls, 5,500 a second.
const FAIR_RATE: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not zero");

impl KeyService for AwsKms {
    fn parallelism(&self) -> usize {
        PARALLELISM
    }

    fn fair_rate(&self) -> Option<NonZeroU32> {
        Some(FAIR_RATE)
    }

    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        let key = &self.names.asked(key)?;
        let what = &format!("GenerateDataKey under {key}");
        let call = self
            .client
            .generate_data_key()
            .key_id(&key.0)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(pairs(context)));
        let answer = self.run(call.send()).map_err(|e| self.error(what, &e))?;
        let plain = answer.plaintext.and_then(key_of);
        let plain = plain.ok_or_else(|| malformed(what, "the answer has no key of 32 bytes"))?;
        let (wrapped, master) = wrapped_of(what, answer.ciphertext_blob, answer.key_id)?;
        check(what, key, &master)?;
        Ok(Generated { key: plain, wrapped, master: self.names.told(master) })
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        let key = &self.names.asked(key)?;
        let what = &format!("Decrypt under {key}");
        let call = self
            .client
            .decrypt()
            .key_id(&key.0)
            .ciphertext_blob(Blob::new(wrapped.0.clone()))
            .set_encryption_context(Some(pairs(context)));
        let answer = self.run(call.send()).map_err(|e| self.error(what, &e))?;
        let plaintext =
            answer.plaintext.ok_or_else(|| malformed(what, "the answer has no plaintext"));
        let master = arn_of(what, answer.key_id)?;
        check(what, key, &master)?;
        // Someone may have wrapped something else under the same key and context.
        let plain = key_of(plaintext?).ok_or_else(|| {
            let why = format!("{what}: what it unwraps to is no key of 32 bytes");
            KmsError::new(Verdict::ThisKey, "InvalidCiphertextException", why)
        })?;
        Ok(Unwrapped { key: plain, master: self.names.told(master) })
    }

    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        let (source, key) = (self.names.asked(from.0)?, self.names.asked(to.0)?);
        let what = &format!("ReEncrypt from {source} to {key}");
        let call = self
            .client
            .re_encrypt()
            .ciphertext_blob(Blob::new(wrapped.0.clone()))
            .source_key_id(&source.0)
            .set_source_encryption_context(Some(pairs(from.1)))
            .destination_key_id(&key.0)
            .set_destination_encryption_context(Some(pairs(to.1)));
        let answer = self.run(call.send()).map_err(|e| self.error(what, &e))?;
        check(what, &source, &arn_of(what, answer.source_key_id)?)?;
        let (wrapped, master) = wrapped_of(what, answer.ciphertext_blob, answer.key_id)?;
        check(what, &key, &master)?;
        Ok(Rewrapped { wrapped, master: self.names.told(master) })
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        let to = &self.names.asked(to)?;
        let what = &format!("Encrypt under {to}");
        let call = self
            .client
            .encrypt()
            .key_id(&to.0)
            .plaintext(Blob::new(plain.expose().to_vec()))
            .set_encryption_context(Some(pairs(context)));
        let answer = self.run(call.send()).map_err(|e| self.error(what, &e))?;
        let (wrapped, master) = wrapped_of(what, answer.ciphertext_blob, answer.key_id)?;
        check(what, to, &master)?;
        Ok(Rewrapped { wrapped, master: self.names.told(master) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "35eeee48-7184-44ac-bf1d-b65624a4312b";

    #[test]
    fn an_answer_under_another_key_is_refused() {
        let arn = KeyArn(format!("arn:aws:kms:eu-west-1:111122223333:key/{ID}"));
        for demanded in [&arn.0, ID, "alias/x", "arn:aws:kms:eu-west-1:111122223333:alias/x"] {
            assert!(is_demanded(&KeyRef(demanded.to_owned()), &arn), "{demanded}");
        }
        let elsewhere = arn.0.replace("eu-west-1", "us-east-1");
        for other in [elsewhere.as_str(), "4312b", "", "key/"] {
            assert!(!is_demanded(&KeyRef(other.to_owned()), &arn), "{other}");
        }
    }

    #[test]
    fn answers_of_a_wrong_shape_are_refused() {
        assert!(key_of(Blob::new(vec![0; 31])).is_none());
        let arn = || Some(format!("arn:aws:kms:eu-west-1:111122223333:key/{ID}"));
        let blob = |n| Some(Blob::new(vec![1; n]));
        assert!(wrapped_of("x", blob(184), arn()).is_ok());
        for (blob, master) in [
            (None, arn()),
            (blob(0), arn()),
            (blob(MAX_WRAPPED + 1), arn()),
            (blob(184), None),
            (blob(184), Some(ID.to_owned())),
        ] {
            let e = wrapped_of("x", blob, master).expect_err("refused");
            assert_eq!(e.verdict, Verdict::Unavailable);
        }
    }
}
