//! The cryptographic calls.
//!
//! | call | PKCS#11 |
//! |---|---|
//! | GenerateDataKey | a key made here, and C_Encrypt |
//! | Decrypt | C_Decrypt |
//! | Encrypt | C_Encrypt |
//! | ReEncrypt | none |
//!
//! All with CKM_AES_GCM, a nonce drawn here, and the context as associated data (`blob`).

use std::num::NonZeroU32;

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::types::Ulong;
use zeroize::Zeroizing;

use super::blob::{self, Blob, NONCE, SEALED};
use super::client::{Look, Pkcs11Kms};
use super::errors::{self, BAD_CIPHERTEXT};
use super::keys::{self, Found};
use super::names::{Names, Sought};
use super::session::Open;
use crate::kms::{
    Context, Generated, KeyRef, KeyService, KmsError, Rewrapped, Unwrapped, Verdict, Wrapped,
};
use crate::secret::{Key, random_nonce};

/// Of AES-GCM, in bits.
const TAG: Ulong = Ulong::new(128);
/// A token is a device, or a network away; few have more cores than this.
const PARALLELISM: usize = 4;
/// Leaves room for others on an HSM over a network, which does several times that.
const FAIR_RATE: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not zero");

/// What a call is about.
#[derive(Clone)]
struct Ask {
    names: Names,
    look: Look,
    what: String,
    key: KeyRef,
    context: Context,
}

/// What a key is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Encrypt,
    Decrypt,
}

impl Ask {
    /// The key, if it may be used now.
    fn usable(&self, open: &mut Open, to: Use) -> Result<Found, KmsError> {
        if self.look == Look::Remembered
            && let Some(known) = open.known.get(&self.key.0)
        {
            return Ok(known.clone());
        }
        let found = self.fresh(open, to)?;
        // A label may come to be another key's.
        if matches!(self.names.sought(&self.key), Ok(Sought::Id(_))) {
            open.known.insert(self.key.0.clone(), found.clone());
        }
        Ok(found)
    }

    fn fresh(&self, open: &Open, to: Use) -> Result<Found, KmsError> {
        let found = keys::find(open, &self.names, &self.what, &self.key)?;
        let may = match to {
            Use::Encrypt => found.encrypt,
            Use::Decrypt => found.decrypt,
        };
        if may {
            return Ok(found);
        }
        let why = format!("{}: the key is disabled", self.what);
        Err(KmsError::new(Verdict::Refused, "DisabledException", why))
    }

    fn seal(&self, open: &Open, found: &Found, plain: &Key) -> Result<Blob, KmsError> {
        let aad = blob::aad(&found.id, &self.context);
        let mut nonce = random_nonce();
        let said = |e| errors::of(&self.what, &e);
        let sealed = {
            let params = GcmParams::new(&mut nonce, &aad, TAG).map_err(said)?;
            let with = Mechanism::AesGcm(params);
            open.session.encrypt(&with, found.handle, plain.expose()).map_err(said)?
        };
        let sealed = <[u8; SEALED]>::try_from(sealed).map_err(|other| {
            let why = format!("{}: {} bytes for 48", self.what, other.len());
            KmsError::new(Verdict::Unavailable, "MalformedAnswer", why)
        })?;
        // As it is now: some tokens draw another, and put it there.
        Ok(Blob { id: found.id.clone(), nonce, sealed })
    }

    /// What C_Decrypt makes of it.
    fn opened(
        &self,
        open: &Open,
        found: &Found,
        blob: &Blob,
    ) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let aad = blob::aad(&found.id, &self.context);
        let mut nonce: [u8; NONCE] = blob.nonce;
        let said = |e| errors::of(&self.what, &e);
        let params = GcmParams::new(&mut nonce, &aad, TAG).map_err(said)?;
        let plain = open.session.decrypt(&Mechanism::AesGcm(params), found.handle, &blob.sealed);
        plain.map(Zeroizing::new).map_err(said)
    }

    fn unseal(&self, open: &mut Open, wrapped: &Wrapped) -> Result<Unwrapped, KmsError> {
        let found = self.usable(open, Use::Decrypt)?;
        let outcome = self.unseal_with(open, &found, wrapped);
        if outcome.as_ref().is_err_and(|e| e.verdict == Verdict::ThisKey) {
            // Where both are bad, the refusal is what the mount must act on.
            self.fresh(open, Use::Decrypt)?;
        }
        Ok(Unwrapped { key: outcome?, master: self.names.arn(&found.id) })
    }

    fn unseal_with(&self, open: &Open, found: &Found, wrapped: &Wrapped) -> Result<Key, KmsError> {
        let bad = |code: &str, why: String| {
            KmsError::new(Verdict::ThisKey, code, format!("{}: {why}", self.what))
        };
        let blob = Blob::parse(wrapped).ok_or_else(|| {
            bad(BAD_CIPHERTEXT, "this is not a wrapped key of a PKCS#11 token".to_owned())
        })?;
        if blob.id != found.id {
            let why = format!("the wrapped key is under {}, not under {}", blob.id, found.id);
            return Err(bad("IncorrectKeyException", why));
        }
        let plain = match self.opened(open, found, &blob) {
            Err(e) if e.verdict == Verdict::Unavailable && self.is_well(open, found) => {
                let why = "it is damaged, or belongs to another file or volume";
                return Err(bad(BAD_CIPHERTEXT, why.to_owned()));
            }
            other => other?,
        };
        Key::from_slice(&plain).ok_or_else(|| {
            bad(BAD_CIPHERTEXT, "what it unwraps to is no key of 32 bytes".to_owned())
        })
    }

    /// Whether the token opens what it wraps this moment: then it is the wrapped key that does not
    /// open. SoftHSM has one error for that and for all that can be wrong with itself.
    fn is_well(&self, open: &Open, found: &Found) -> bool {
        let probe = Key::random();
        let opened = self.seal(open, found, &probe).and_then(|b| self.opened(open, found, &b));
        opened.is_ok_and(|plain| plain.as_slice() == probe.expose())
    }
}

impl Pkcs11Kms {
    fn about(&self, call: &str, key: &KeyRef, context: &Context) -> Ask {
        Ask {
            names: self.names.clone(),
            look: self.look,
            what: format!("{call} under {key}"),
            key: key.clone(),
            context: context.clone(),
        }
    }

    fn wrap(&self, ask: Ask, plain: Key) -> Result<Rewrapped, KmsError> {
        self.callers.call(&ask.what.clone(), move |open| {
            let found = ask.usable(open, Use::Encrypt)?;
            let wrapped = ask.seal(open, &found, &plain)?.encode();
            Ok(Rewrapped { wrapped, master: ask.names.arn(&found.id) })
        })
    }
}

impl KeyService for Pkcs11Kms {
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
        self.callers.send_home();
        self.changers.send_home();
    }

    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        let plain = Key::random();
        let ask = self.about("GenerateDataKey", key, context);
        let Rewrapped { wrapped, master } = self.wrap(ask, plain.clone())?;
        Ok(Generated { key: plain, wrapped, master })
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        let (ask, wrapped) = (self.about("Decrypt", key, context), wrapped.clone());
        self.callers.call(&ask.what.clone(), move |open| ask.unseal(open, &wrapped))
    }

    fn reencrypt(
        &self,
        _wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        let why = format!("ReEncrypt from {} to {}: a token has none", from.0, to.0);
        Err(KmsError::new(Verdict::Invalid, "UnsupportedOperationException", why))
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        self.wrap(self.about("Encrypt", to, context), plain.clone())
    }
}
