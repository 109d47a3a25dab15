//! To whom keys are sealed: public keys of age (X25519).

use std::fmt;
use std::io::Write;

use age::x25519;
use serde::{Deserialize, Serialize};

use crate::secret::Key;

/// So many recipients a volume has at most.
pub const MOST_RECIPIENTS: usize = 16;

/// Points of low order, as RFC 7748's u-coordinates: what is sealed to one, everybody can open,
/// and the age crate panics.
const LOW_ORDER: [[u8; 32]; 7] = [
    near_zero(0),
    near_zero(1),
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    near_prime(0xec),
    near_prime(0xed),
    near_prime(0xee),
];

const fn near_zero(first: u8) -> [u8; 32] {
    let mut point = [0; 32];
    point[0] = first;
    point
}

/// 2^255 − 19 and its neighbours.
const fn near_prime(first: u8) -> [u8; 32] {
    let mut point = [0xff; 32];
    point[0] = first;
    point[31] = 0x7f;
    point
}

/// Why a text names no recipient. It quotes nothing: it may have been a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecipient {
    /// A secret key in the place of a public one.
    #[error("it is an identity, which is a secret: its recipient is wanted (age-keygen -y FILE)")]
    Secret,
    /// Of a kind that this version cannot seal to.
    #[error("it is no X25519 recipient of age (age1…, 62 characters, as age-keygen prints it)")]
    Kind,
    /// Everybody could open what is sealed to it.
    #[error("it is a weak key: everybody could open what is sealed to it")]
    Weak,
    /// Named twice.
    #[error("it is named twice")]
    Twice,
    /// Not 1 to 16 of them.
    #[error("{0} recipients: there are 1 to {MOST_RECIPIENTS}")]
    Number(usize),
}

/// The recipients of a volume: 1 to [`MOST_RECIPIENTS`], in the order in which they were named.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Recipients(Vec<x25519::Recipient>);

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.texts()).finish()
    }
}

impl Recipients {
    /// Of these texts, each `age1…` in its one spelling.
    ///
    /// # Errors
    /// [`BadRecipient`] of the first that is none; `Number`.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, BadRecipient> {
        let mut all = Vec::new();
        for text in texts {
            let recipient = parse(text)?;
            if all.contains(&recipient) {
                return Err(BadRecipient::Twice);
            }
            all.push(recipient);
        }
        if all.is_empty() || all.len() > MOST_RECIPIENTS {
            return Err(BadRecipient::Number(all.len()));
        }
        Ok(Self(all))
    }

    /// Their texts.
    pub fn texts(&self) -> impl ExactSizeIterator<Item = String> {
        self.0.iter().map(ToString::to_string)
    }

    /// Seals a key to all of them: each alone can open it.
    pub fn seal(&self, key: &Key) -> Vec<u8> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients)
            .expect("there is a recipient, and all are of one kind");
        let mut sealed = Vec::new();
        let written = encryptor.wrap_output(&mut sealed).and_then(|mut writer| {
            writer.write_all(key.expose())?;
            writer.finish()
        });
        written.expect("a Vec takes what is written to it");
        sealed
    }
}

impl TryFrom<Vec<String>> for Recipients {
    type Error = BadRecipient;

    fn try_from(texts: Vec<String>) -> Result<Self, BadRecipient> {
        Self::new(texts.iter().map(String::as_str))
    }
}

impl From<Recipients> for Vec<String> {
    fn from(recipients: Recipients) -> Self {
        recipients.texts().collect()
    }
}

fn parse(text: &str) -> Result<x25519::Recipient, BadRecipient> {
    if super::identities::looks_secret(text) {
        return Err(BadRecipient::Secret);
    }
    let recipient: x25519::Recipient = text.parse().map_err(|_| BadRecipient::Kind)?;
    if recipient.to_string() != text {
        return Err(BadRecipient::Kind);
    }
    let (_, mut point) = bech32::decode(text).map_err(|_| BadRecipient::Kind)?;
    // RFC 7748 leaves the last bit out.
    point.last_mut().into_iter().for_each(|byte| *byte &= 0x7f);
    match LOW_ORDER.iter().any(|low| *low == *point) {
        true => Err(BadRecipient::Weak),
        false => Ok(recipient),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{PUBLIC as ONE, SECRET};
    use super::*;

    fn made(point: [u8; 32]) -> String {
        bech32::encode::<bech32::Bech32>(bech32::Hrp::parse_unchecked("age"), &point).expect("text")
    }

    #[test]
    fn a_recipient_has_one_spelling() {
        let one = Recipients::new([ONE]).expect("it is one");
        assert_eq!(one.texts().collect::<Vec<_>>(), [ONE]);
        assert_eq!(format!("{one:?}"), format!("[{ONE:?}]"));
        let upper = ONE.to_uppercase();
        let space = format!("{ONE} ");
        for bad in ["", "age1", &upper, &space, "ssh-ed25519 AAAA", &ONE[..61], "age1pq1xyz"] {
            assert_eq!(Recipients::new([bad]), Err(BadRecipient::Kind), "{bad:?}");
        }
        for i in 0..ONE.len() {
            let mut flipped = ONE.as_bytes().to_vec();
            flipped[i] ^= 1;
            let text = String::from_utf8(flipped).expect("ASCII");
            assert!(Recipients::new([text.as_str()]).is_err(), "byte {i}");
        }
        let got = Recipients::new([SECRET]);
        assert_eq!(got, Err(BadRecipient::Secret));
        assert!(!format!("{}", got.expect_err("a secret")).contains("GQ97"));
    }

    #[test]
    fn there_are_one_to_sixteen_and_none_twice() {
        assert_eq!(Recipients::new([]), Err(BadRecipient::Number(0)));
        assert_eq!(Recipients::new([ONE, ONE]), Err(BadRecipient::Twice));
        let many = |n: u8| (0..n).map(|i| made([i + 9; 32])).collect::<Vec<_>>();
        assert!(Recipients::try_from(many(16)).is_ok());
        assert_eq!(Recipients::try_from(many(17)), Err(BadRecipient::Number(17)));
    }

    /// The age crate panics on each, in the middle of `init`.
    #[test]
    fn a_weak_key_is_no_recipient() {
        for low in LOW_ORDER {
            let mut high = low;
            high[31] |= 0x80;
            for point in [low, high] {
                let got = Recipients::try_from(vec![made(point)]);
                assert_eq!(got, Err(BadRecipient::Weak), "{point:x?}");
            }
        }
    }

    #[test]
    fn as_json_they_are_a_list_of_texts() {
        let two = [ONE.to_owned(), made([9; 32])].to_vec();
        let recipients = Recipients::try_from(two.clone()).expect("good");
        let text = serde_json::to_string(&recipients).expect("JSON");
        assert_eq!(text, format!("[{:?},{:?}]", two[0], two[1]));
        assert_eq!(serde_json::from_str::<Recipients>(&text).expect("read"), recipients);
        for bad in ["[]", "[\"x\"]", "{}", &format!("[{ONE:?},{ONE:?}]")] {
            assert!(serde_json::from_str::<Recipients>(bad).is_err(), "{bad}");
        }
    }
}
