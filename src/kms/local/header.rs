//! `keystore.json`: the keystore's id and the key that everything else in it is sealed under.
//!
//! ```text
//! {"format":1,"id":ID,"key":{"passphrase":
//!     {"kdf":"argon2id","m":KIB,"t":PASSES,"p":LANES,"salt":HEX,"sealed":HEX}}}
//! {"format":1,"id":ID,"key":{"clear":HEX}}
//! ```
//! The sealed key's associated data is `kmsfs keystore 1` ‖ id (16) ‖ m, t, p (u32 big-endian
//! each) ‖ salt (16), so parameters cannot be exchanged for others; and whatever the file says,
//! less work than the minimum is refused.

use argon2::{Algorithm, Argon2, Params, Version};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::id::Id;
use super::json;
use super::seal::Sealed;
use crate::secret::{Key, Passphrase, random_bytes};

const FORMAT: u32 = 1;
const LABEL: &[u8] = b"kmsfs keystore 1";

/// What is asked of argon2id in a new keystore: the second recommendation of RFC 9106, with one
/// lane, as this implementation computes lanes one after the other.
const COST: Cost = Cost { m: 64 << 10, t: 3, p: 1 };
/// The least that is accepted, whatever the file says.
const LEAST: Cost = Cost { m: 19 << 10, t: 2, p: 1 };
/// The most that is accepted, so that a damaged file cannot ask for all memory.
const MOST: Cost = Cost { m: 4 << 20, t: 64, p: 16 };

/// How a keystore's own key is kept.
#[derive(Clone, Debug)]
pub enum Sealing {
    /// Under a passphrase.
    Passphrase(Passphrase),
    /// In clear: whoever reads the folder has every key.
    Clear,
}

/// Why a header gives no key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged(String),
    TooWeak(String),
    PassphraseNeeded,
    WrongPassphrase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    m: u32,
    t: u32,
    p: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    format: u32,
    pub(super) id: Id,
    key: Protected,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Protected {
    Clear(ClearKey),
    Passphrase(UnderPassphrase),
}

#[derive(Serialize, Deserialize)]
enum Kdf {
    #[serde(rename = "argon2id")]
    Argon2id,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnderPassphrase {
    kdf: Kdf,
    m: u32,
    t: u32,
    p: u32,
    salt: Salt,
    sealed: Sealed,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Salt([u8; 16]);

/// A key in clear. Its hex passes through serde's own strings, which the process's allocator
/// wipes when they are freed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct ClearKey(Key);

impl Header {
    /// Keeps `root` as `sealing` says. Takes a good part of a second for a passphrase.
    pub(super) fn new(id: Id, root: &Key, sealing: &Sealing) -> Result<Self, HeaderError> {
        let key = match sealing {
            Sealing::Clear => Protected::Clear(ClearKey(root.clone())),
            Sealing::Passphrase(passphrase) => {
                Protected::Passphrase(UnderPassphrase::new(id, root, passphrase)?)
            }
        };
        Ok(Self { format: FORMAT, id, key })
    }

    pub(super) fn encode(&self) -> Zeroizing<Vec<u8>> {
        json::encode(self)
    }

    pub(super) fn parse(file: &[u8]) -> Result<Self, HeaderError> {
        let header: Self = json::parse(file).map_err(HeaderError::Damaged)?;
        if header.format != FORMAT {
            return Err(HeaderError::Damaged(format!("unknown format {}", header.format)));
        }
        if let Protected::Passphrase(sealed) = &header.key {
            sealed.cost().check()?;
        }
        Ok(header)
    }

    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.key, Protected::Passphrase(_))
    }

    /// The keystore's key.
    pub(super) fn unlock(&self, passphrase: Option<&Passphrase>) -> Result<Key, HeaderError> {
        match (&self.key, passphrase) {
            (Protected::Clear(key), _) => Ok(key.0.clone()),
            (Protected::Passphrase(_), None) => Err(HeaderError::PassphraseNeeded),
            (Protected::Passphrase(sealed), Some(passphrase)) => sealed.open(self.id, passphrase),
        }
    }
}

impl UnderPassphrase {
    fn new(id: Id, root: &Key, passphrase: &Passphrase) -> Result<Self, HeaderError> {
        if passphrase.expose().is_empty() {
            return Err(HeaderError::TooWeak("the passphrase is empty".to_owned()));
        }
        let salt = Salt(random_bytes());
        let derived = COST.derive(passphrase, &salt)?;
        let sealed = Sealed::seal(&derived, &COST.aad(id, &salt), root);
        let Cost { m, t, p } = COST;
        Ok(Self { kdf: Kdf::Argon2id, m, t, p, salt, sealed })
    }

    fn cost(&self) -> Cost {
        Cost { m: self.m, t: self.t, p: self.p }
    }

    fn open(&self, id: Id, passphrase: &Passphrase) -> Result<Key, HeaderError> {
        let cost = self.cost();
        let derived = cost.derive(passphrase, &self.salt)?;
        self.sealed.open(&derived, &cost.aad(id, &self.salt)).ok_or(HeaderError::WrongPassphrase)
    }
}

impl Cost {
    fn check(self) -> Result<(), HeaderError> {
        let Self { m, t, p } = self;
        if m < LEAST.m || t < LEAST.t || p < LEAST.p {
            let what = format!(
                "argon2id with m={m} t={t} p={p}, where at least m={} t={} p={} is asked for",
                LEAST.m, LEAST.t, LEAST.p
            );
            return Err(HeaderError::TooWeak(what));
        }
        if m > MOST.m || t > MOST.t || p > MOST.p {
            let what = format!("argon2id with m={m} t={t} p={p} is more work than is accepted");
            return Err(HeaderError::Damaged(what));
        }
        Ok(())
    }

    fn derive(self, passphrase: &Passphrase, salt: &Salt) -> Result<Key, HeaderError> {
        let damaged = |e: argon2::Error| HeaderError::Damaged(format!("argon2id: {e}"));
        let params = Params::new(self.m, self.t, self.p, Some(32)).map_err(damaged)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut done = Ok(());
        let key = Key::build(|out| {
            done = argon2.hash_password_into(passphrase.expose(), &salt.0, out);
        });
        done.map(|()| key).map_err(damaged)
    }

    fn aad(self, id: Id, salt: &Salt) -> Vec<u8> {
        let mut aad = LABEL.to_vec();
        aad.extend(id.0);
        for n in [self.m, self.t, self.p] {
            aad.extend(n.to_be_bytes());
        }
        aad.extend(salt.0);
        aad
    }
}

impl TryFrom<String> for Salt {
    type Error = &'static str;
    fn try_from(hex: String) -> Result<Self, Self::Error> {
        let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| "not lower-case hex")?;
        bytes.try_into().map(Self).map_err(|_| "not a salt's length")
    }
}

impl From<Salt> for String {
    fn from(salt: Salt) -> Self {
        HEXLOWER.encode(&salt.0)
    }
}

impl TryFrom<String> for ClearKey {
    type Error = &'static str;
    fn try_from(hex: String) -> Result<Self, Self::Error> {
        let hex = Zeroizing::new(hex);
        let bytes = HEXLOWER.decode(hex.as_bytes()).map_err(|_| "not lower-case hex")?;
        Key::from_slice(&Zeroizing::new(bytes)).map(Self).ok_or("not a key's length")
    }
}

impl From<ClearKey> for String {
    fn from(key: ClearKey) -> Self {
        HEXLOWER.encode(key.0.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(passphrase: &str) -> (Key, Header) {
        let root = Key::random();
        let sealing = Sealing::Passphrase(Passphrase::new(passphrase.into()));
        let header = Header::new(Id::random(), &root, &sealing).expect("a good passphrase");
        (root, header)
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed_and_nothing_else_does() {
        let (root, header) = sealed("correct horse");
        let again = Header::parse(&header.encode()).expect("its own encoding");
        let opened = again.unlock(Some(&Passphrase::new(b"correct horse".to_vec())));
        assert_eq!(opened.expect("the passphrase").expose(), root.expose());
        let wrong = again.unlock(Some(&Passphrase::new(b"battery".to_vec())));
        assert_eq!(wrong.expect_err("wrong"), HeaderError::WrongPassphrase);
        assert_eq!(again.unlock(None).expect_err("none"), HeaderError::PassphraseNeeded);
    }

    #[test]
    fn parameters_are_authenticated_and_have_a_minimum() {
        let (_, mut header) = sealed("pass");
        let Protected::Passphrase(inner) = &mut header.key else { panic!("sealed") };
        inner.t = 2;
        let other = Header::parse(&header.encode()).expect("within the bounds");
        let opened = other.unlock(Some(&Passphrase::new(b"pass".to_vec())));
        assert_eq!(opened.expect_err("another t"), HeaderError::WrongPassphrase);
        let Protected::Passphrase(inner) = &mut header.key else { panic!("sealed") };
        inner.t = 1;
        assert!(matches!(Header::parse(&header.encode()), Err(HeaderError::TooWeak(_))));
        let Protected::Passphrase(inner) = &mut header.key else { panic!("sealed") };
        (inner.t, inner.m) = (3, u32::MAX);
        assert!(matches!(Header::parse(&header.encode()), Err(HeaderError::Damaged(_))));
    }

    #[test]
    fn every_changed_byte_of_the_file_is_damage() {
        let (_, header) = sealed("pass");
        let clear = Header::new(Id::random(), &Key::random(), &Sealing::Clear).expect("clear");
        for file in [header.encode(), clear.encode()] {
            for at in 0..file.len() {
                for bit in 0..8 {
                    let mut bad = file.clone();
                    bad[at] ^= 1 << bit;
                    assert!(Header::parse(&bad).is_err(), "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn an_empty_passphrase_is_too_weak() {
        let sealing = Sealing::Passphrase(Passphrase::new(Vec::new()));
        let made = Header::new(Id::random(), &Key::random(), &sealing);
        assert!(matches!(made, Err(HeaderError::TooWeak(_))));
    }
}
