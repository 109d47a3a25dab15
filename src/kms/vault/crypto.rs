//! The cryptographic calls.
//!
//! | call | Transit |
//! |---|---|
//! | GenerateDataKey | `datakey/plaintext/NAME`, or a key made here and `encrypt/NAME` |
//! | Decrypt | `decrypt/NAME` |
//! | Encrypt | `encrypt/NAME` |
//! | ReEncrypt | none: `rewrap` takes no associated data, and leads to no other key |
//!
//! A wrapped key is bound to its context as associated data: see [`associated`].

use std::num::NonZeroU32;

use data_encoding::BASE64;
use serde::Serialize;
use zeroize::Zeroizing;

use super::answer::{self, DataKey, Opened, Sealed};
use super::client::VaultKms;
use super::errors::{NO_TYPE, malformed};
use crate::kms::{
    Context, Generated, KeyRef, KeyService, KmsError, MAX_WRAPPED, Rewrapped, Unwrapped, Verdict,
    Wrapped,
};
use crate::secret::Key;

#[derive(Serialize)]
struct Generate<'a> {
    associated_data: &'a str,
    bits: u32,
}

#[derive(Serialize)]
struct Open<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
}

#[derive(Serialize)]
struct Seal<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
    /// Of a key that is made where there is none.
    #[serde(rename = "type")]
    kind: &'static str,
}

/// A context as associated data: its pairs as a JSON object, sorted by name, without blanks; in
/// base64, as Transit takes it.
fn associated(context: &Context) -> String {
    let pairs: std::collections::BTreeMap<_, _> = context.pairs().collect();
    BASE64.encode(&serde_json::to_vec(&pairs).expect("texts always have a JSON form"))
}

/// Whether a text is what Transit calls a ciphertext: `vault:v1:` and base64.
fn is_ciphertext(text: &str) -> bool {
    let parts = text.strip_prefix("vault:v").and_then(|rest| rest.split_once(':'));
    let is_version =
        |v: &str| !v.is_empty() && v.len() < 10 && v.bytes().all(|b| b.is_ascii_digit());
    parts.is_some_and(|(version, bytes)| {
        is_version(version) && !bytes.is_empty() && BASE64.decode(bytes.as_bytes()).is_ok()
    })
}

fn wrapped_of(what: &str, ciphertext: String) -> Result<Wrapped, KmsError> {
    if ciphertext.len() > MAX_WRAPPED || !is_ciphertext(&ciphertext) {
        return Err(malformed(what, "the answer's wrapped key is none of Transit's"));
    }
    Ok(Wrapped(ciphertext.into_bytes()))
}

/// The text of a wrapped key.
fn ciphertext_of<'a>(what: &str, wrapped: &'a Wrapped) -> Result<&'a str, KmsError> {
    str::from_utf8(&wrapped.0).ok().filter(|text| is_ciphertext(text)).ok_or_else(|| {
        let why = format!("{what}: the wrapped key is none of Transit's");
        KmsError::new(Verdict::ThisKey, "InvalidCiphertextException", why)
    })
}

/// Keys of a sidecar page, a few at once: it waits for the network, and a server has few cores.
const PARALLELISM: usize = 16;

/// What a server of two cores does several times of.
const FAIR_RATE: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not zero");

impl VaultKms {
    fn seal(
        &self,
        what: &str,
        (key, name): (&KeyRef, &str),
        plain: &Key,
        context: &Context,
    ) -> Result<Rewrapped, KmsError> {
        // 44 characters for 32 bytes: no longer text is left behind when it grows.
        let mut text = Zeroizing::new(String::with_capacity(44));
        BASE64.encode_append(plain.expose(), &mut text);
        let associated = associated(context);
        let request = Seal { plaintext: &text, associated_data: &associated, kind: NO_TYPE };
        let reply = self.post(what, &format!("encrypt/{name}"), &request)?;
        let Some(Sealed { ciphertext }) = answer::bound(what, &reply)? else {
            let why = format!(
                "{what}: {key}: this server's Transit takes no associated data: kmsfs needs \
                 OpenBao, or Vault 1.13 or newer"
            );
            return Err(KmsError::new(Verdict::Invalid, "UnsupportedOperationException", why));
        };
        Ok(Rewrapped { wrapped: wrapped_of(what, ciphertext)?, master: self.names.arn(name) })
    }
}

impl KeyService for VaultKms {
    fn parallelism(&self) -> usize {
        PARALLELISM
    }

    fn fair_rate(&self) -> Option<NonZeroU32> {
        Some(FAIR_RATE)
    }

    fn has_reencrypt(&self) -> bool {
        false
    }

    fn forget(&self) {
        self.http.forget();
    }

    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        let what = &format!("GenerateDataKey under {key}");
        let name = self.names.name_of(key)?;
        let associated = associated(context);
        let request = Generate { associated_data: &associated, bits: 256 };
        let reply = self.post(what, &format!("datakey/plaintext/{name}"), &request)?;
        let Some(DataKey { ciphertext, plaintext }) = answer::bound(what, &reply)? else {
            // HashiCorp's Vault, and OpenBao before 2.5, bind no data key that they make.
            let plain = Key::random();
            let Rewrapped { wrapped, master } = self.seal(what, (key, name), &plain, context)?;
            return Ok(Generated { key: plain, wrapped, master });
        };
        let key =
            plaintext.0.ok_or_else(|| malformed(what, "the answer has no key of 32 bytes"))?;
        Ok(Generated { key, wrapped: wrapped_of(what, ciphertext)?, master: self.names.arn(name) })
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        let what = &format!("Decrypt under {key}");
        let name = self.names.name_of(key)?;
        let (ciphertext, associated) = (ciphertext_of(what, wrapped)?, associated(context));
        let request = Open { ciphertext, associated_data: &associated };
        let reply = self.post(what, &format!("decrypt/{name}"), &request)?;
        let Opened { plaintext } = answer::data(what, &reply)?;
        // Someone may have wrapped something else under the same key and context.
        let key = plaintext.0.ok_or_else(|| {
            let why = format!("{what}: what it unwraps to is no key of 32 bytes");
            KmsError::new(Verdict::ThisKey, "InvalidCiphertextException", why)
        })?;
        Ok(Unwrapped { key, master: self.names.arn(name) })
    }

    fn reencrypt(
        &self,
        _wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        let why = format!(
            "ReEncrypt from {} to {}: Transit has none that takes associated data",
            from.0, to.0
        );
        Err(KmsError::new(Verdict::Invalid, "UnsupportedOperationException", why))
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        let what = &format!("Encrypt under {to}");
        self.seal(what, (to, self.names.name_of(to)?), plain, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BranchId, VolumeId};

    /// Data keys of volumes that are there depend on it, byte for byte.
    #[test]
    fn a_context_has_one_spelling() {
        let (volume, branch) = (VolumeId([1; 16]), BranchId([2; 16]));
        let text = BASE64.decode(associated(&Context::branch(volume, branch)).as_bytes());
        let wanted = format!(
            r#"{{"kmsfs:branch":"{branch}","kmsfs:use":"branch","kmsfs:volume":"{volume}"}}"#
        );
        assert_eq!(text.expect("base64"), wanted.into_bytes());
    }

    #[test]
    fn a_wrapped_key_is_a_text_of_transit_s() {
        let verdict = |text: &[u8]| {
            ciphertext_of("x", &Wrapped(text.to_vec())).map(drop).map_err(|e| e.verdict)
        };
        assert_eq!(verdict(b"vault:v12:AAAA"), Ok(()));
        for bad in [
            &b""[..],
            b"vault:v1:",
            b"vault:vq:AAAA",
            b"vault:v:AAAA",
            b"vault:v1:AAA",
            b"vault:v1:AB==",
            b"vault:v99999999999:AAAA",
            b"vault:v1:AAAA\n",
            b"\xff\xfe",
            &[0; 6144],
        ] {
            assert_eq!(verdict(bad), Err(Verdict::ThisKey), "{bad:?}");
        }
    }
}
