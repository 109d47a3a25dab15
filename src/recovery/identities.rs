//! Who can open what is sealed: secret keys of age (X25519), from a file as age-keygen makes it.

use std::fmt;
use std::io::Read;

use age::x25519;

use crate::secret::Key;

/// Why a text is no list of identities. It quotes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadIdentity {
    /// It is sealed under a passphrase itself.
    #[error("the identities are encrypted: pipe them in (age -d FILE | kmsfs … --identity -)")]
    Encrypted,
    /// A public key in the place of a secret one.
    #[error("line {0} is a recipient: the identity is wanted, which age-keygen made with it")]
    Public(usize),
    /// A line that is none.
    #[error(
        "line {0} is no X25519 identity of age (AGE-SECRET-KEY-1…, as age-keygen makes it); those \
         of plugins and of SSH are not known here"
    )]
    Kind(usize),
    /// No line is one.
    #[error("there is no identity in it")]
    None,
}

/// Why a sealed key does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotOpened {
    /// It is sealed to others.
    #[error("it is sealed to none of these identities")]
    NotMine,
    /// It is no age file of a key.
    #[error("it is damaged")]
    Damaged,
}

/// Secret keys, which wipe themselves when dropped and never print themselves.
pub struct Identities(Vec<x25519::Identity>);

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// Whether a text is, or tries to be, a secret key.
pub(super) fn looks_secret(text: &str) -> bool {
    text.get(..11).is_some_and(|start| start.eq_ignore_ascii_case("AGE-SECRET-"))
}

impl Identities {
    /// Reads them as age does, [`super::entries`] of a file. The text stays the caller's to wipe.
    ///
    /// # Errors
    /// [`BadIdentity`].
    pub fn parse(text: &str) -> Result<Self, BadIdentity> {
        if ["age-encryption.org/", "-----BEGIN AGE"].iter().any(|start| text.starts_with(start)) {
            return Err(BadIdentity::Encrypted);
        }
        let mut all = Vec::new();
        for (n, line) in super::entries(text) {
            let identity = line.parse().map_err(|_| match line.starts_with("age1") {
                true => BadIdentity::Public(n),
                false => BadIdentity::Kind(n),
            })?;
            all.push(identity);
        }
        if all.is_empty() { Err(BadIdentity::None) } else { Ok(Self(all)) }
    }

    /// Their public keys.
    pub fn recipients(&self) -> impl ExactSizeIterator<Item = String> {
        self.0.iter().map(|identity| identity.to_public().to_string())
    }

    /// Opens a sealed key. Whether it is the key that it should be, its MAC says.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub fn open(&self, sealed: &[u8]) -> Result<Key, NotOpened> {
        let identities = self.0.iter().map(|identity| identity as &dyn age::Identity);
        let decryptor = age::Decryptor::new_buffered(sealed).map_err(|_| NotOpened::Damaged)?;
        let mut reader = decryptor.decrypt(identities).map_err(|e| match e {
            age::DecryptError::NoMatchingKeys => NotOpened::NotMine,
            _ => NotOpened::Damaged,
        })?;
        let mut read = Ok(());
        let key = Key::build(|out| read = reader.read_exact(out));
        let rest = read.and_then(|()| reader.read(&mut [0; 1]));
        match rest {
            Ok(0) => Ok(key),
            _ => Err(NotOpened::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Recipients;
    use super::super::sample::{PUBLIC, SECRET};
    use super::*;

    fn other() -> Identities {
        Identities(vec![x25519::Identity::generate()])
    }

    #[test]
    fn a_file_of_age_keygen_is_read() {
        let text = format!("# created: 2026-01-01\n# public key: {PUBLIC}\n{SECRET}\n");
        let read = Identities::parse(&text).expect("as age-keygen makes it");
        assert_eq!(read.recipients().collect::<Vec<_>>(), [PUBLIC]);
        assert!(Identities::parse(&text.replace('\n', "\r\n")).is_ok());
        assert_eq!(format!("{read:?}"), "Identities(1)");
        let bad = |text: &str| Identities::parse(text).expect_err("no identities");
        assert_eq!(bad("# nothing\n\n"), BadIdentity::None);
        assert_eq!(bad(&format!("#\n{PUBLIC}")), BadIdentity::Public(2));
        assert_eq!(bad(&SECRET[..70]), BadIdentity::Kind(1));
        assert_eq!(bad("AGE-PLUGIN-YUBIKEY-1XYZ"), BadIdentity::Kind(1));
        assert_eq!(bad("age-encryption.org/v1\n-> scrypt x 18\n"), BadIdentity::Encrypted);
        assert!(!bad(&SECRET[..70]).to_string().contains("GQ97"));
    }

    #[test]
    fn each_recipient_opens_what_is_sealed_and_nobody_else_does() {
        let ours = [other(), other(), Identities::parse(SECRET).expect("one")];
        let texts: Vec<String> = ours.iter().flat_map(Identities::recipients).collect();
        let recipients = Recipients::try_from(texts).expect("three");
        let key = Key::random();
        let sealed = recipients.seal(&key);
        assert!(sealed.len() < super::super::MAX_SEALED);
        for identity in &ours {
            assert_eq!(identity.open(&sealed).expect("ours").expose(), key.expose());
        }
        assert_eq!(other().open(&sealed).expect_err("not theirs"), NotOpened::NotMine);
        assert_ne!(recipients.seal(&key), sealed, "fresh each time");
    }

    /// Of the header only the parts that nobody reads may be another: age's own MAC sees them.
    #[test]
    fn every_flipped_byte_of_a_sealed_key_is_seen() {
        let ours = Identities::parse(SECRET).expect("one");
        let sealed = Recipients::new([PUBLIC]).expect("one").seal(&Key::random());
        for i in 0..sealed.len() {
            for bit in [0, 3, 7] {
                let mut flipped = sealed.clone();
                flipped[i] ^= 1 << bit;
                assert!(ours.open(&flipped).is_err(), "byte {i} bit {bit}");
            }
            assert!(ours.open(&sealed[..i]).is_err(), "{i} bytes");
        }
        assert!(ours.open(&[&sealed[..], &[0]].concat()).is_err());
    }

    #[test]
    fn an_age_file_of_anything_but_a_key_is_damaged() {
        use std::io::Write;
        let ours = Identities::parse(SECRET).expect("one");
        let recipient: x25519::Recipient = PUBLIC.parse().expect("one");
        for len in [0, 31, 33, 70_000] {
            let all = [&recipient as &dyn age::Recipient];
            let encryptor = age::Encryptor::with_recipients(all.into_iter()).expect("one");
            let mut sealed = Vec::new();
            let mut writer = encryptor.wrap_output(&mut sealed).expect("written");
            writer.write_all(&vec![7; len]).expect("written");
            writer.finish().expect("written");
            assert_eq!(ours.open(&sealed).expect_err("no key"), NotOpened::Damaged, "{len}");
        }
    }
}
