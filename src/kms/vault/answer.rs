//! What answers say: parsed from a buffer that is wiped, data keys straight into locked memory.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::auth::Token;
use super::errors::malformed;
use super::http::Reply;
use crate::kms::KmsError;
use crate::secret::Key;

/// A data key in an answer; `None` where it is not 32 bytes.
pub(super) struct Plain(pub(super) Option<Key>);

/// A text that is looked at where it lies, and copied nowhere else.
struct Text<T>(fn(&str) -> T);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        Ok((self.0)(text))
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text(|text| Self(decode(text))))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(Text(|text| Self::new(text.as_bytes())))
    }
}

/// A key of 32 bytes in base64 has 44 characters.
fn decode(text: &str) -> Option<Key> {
    let mut bytes = Zeroizing::new([0; 33]);
    let room = BASE64.decode_len(text.len()).ok().filter(|len| *len == bytes.len())?;
    let len = BASE64.decode_mut(text.as_bytes(), &mut bytes[..room]).ok()?;
    Key::from_slice(&bytes[..len])
}

/// The outer form of every answer.
#[derive(Deserialize)]
struct Envelope<T> {
    data: Option<T>,
    auth: Option<Login>,
    warnings: Option<Vec<String>>,
}

/// Of datakey.
#[derive(Deserialize)]
pub(super) struct DataKey {
    pub(super) ciphertext: String,
    pub(super) plaintext: Plain,
}

/// Of decrypt.
#[derive(Deserialize)]
pub(super) struct Opened {
    pub(super) plaintext: Plain,
}

/// Of encrypt.
#[derive(Deserialize)]
pub(super) struct Sealed {
    pub(super) ciphertext: String,
}

/// Of a key.
#[derive(Deserialize)]
pub(super) struct Described {
    pub(super) name: String,
    /// By version; a time for keys that encrypt.
    #[serde(default)]
    pub(super) keys: BTreeMap<String, serde_json::Value>,
    pub(super) latest_version: u32,
    /// OpenBao's alone.
    #[serde(default)]
    pub(super) soft_deleted: bool,
}

/// Of a list.
#[derive(Deserialize)]
pub(super) struct Listed {
    pub(super) keys: Vec<String>,
}

/// Of a login, or a renewal.
#[derive(Deserialize)]
pub(super) struct Login {
    pub(super) client_token: Token,
    /// Seconds; 0 for one that does not end.
    pub(super) lease_duration: u64,
    pub(super) renewable: bool,
}

/// What a token says of itself.
#[derive(Deserialize)]
pub(super) struct Looked {
    /// Seconds; 0 for one that does not end.
    pub(super) ttl: u64,
    #[serde(default)]
    pub(super) renewable: bool,
}

fn envelope<T: DeserializeOwned>(what: &str, reply: &Reply) -> Result<Envelope<T>, KmsError> {
    serde_json::from_slice(&reply.body)
        // Not serde's words: they may quote what they stumbled over.
        .map_err(|_| malformed(what, "the answer is not what the API describes"))
}

/// What a good answer has in its `data`.
///
/// # Errors
/// `Unavailable` where it has another form.
pub(super) fn data<T: DeserializeOwned>(what: &str, reply: &Reply) -> Result<T, KmsError> {
    envelope(what, reply)?.data.ok_or_else(|| malformed(what, "the answer is empty"))
}

/// As [`data`], of a call that binds to associated data; `None` where the server says that it did
/// not look at it.
///
/// # Errors
/// As [`data`].
pub(super) fn bound<T: DeserializeOwned>(what: &str, reply: &Reply) -> Result<Option<T>, KmsError> {
    let answer: Envelope<T> = envelope(what, reply)?;
    let warnings = answer.warnings.unwrap_or_default();
    if warnings.iter().any(|warning| warning.contains("associated_data")) {
        return Ok(None);
    }
    answer.data.map(Some).ok_or_else(|| malformed(what, "the answer is empty"))
}

/// The token in an answer.
///
/// # Errors
/// As [`data`].
pub(super) fn login(what: &str, reply: &Reply) -> Result<Login, KmsError> {
    let answer: Envelope<serde_json::Value> = envelope(what, reply)?;
    answer.auth.ok_or_else(|| malformed(what, "the answer has no token"))
}

/// A request's body.
pub(super) fn body(request: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let text = serde_json::to_vec(request).expect("structs of strings always have a JSON form");
    Zeroizing::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Reply {
        Reply { status: 200, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    #[test]
    fn only_32_bytes_are_a_data_key() {
        let key = |text: String| {
            let body = format!(r#"{{"data":{{"plaintext":{text}}}}}"#);
            data::<Opened>("x", &reply(&body)).expect("an answer").plaintext.0
        };
        let of = |n| format!("{:?}", BASE64.encode(&vec![7u8; n]));
        assert_eq!(key(of(32)).expect("a key").expose(), &[7; 32]);
        // As some encoders write a slash.
        let escaped = of(32).replace("Bw", r"B\u0077");
        assert_eq!(key(escaped).expect("a key").expose(), &[7; 32]);
        for text in
            [of(0), of(16), of(31), of(33), of(64), r#""x""#.to_owned(), of(32).replace('=', "")]
        {
            assert!(key(text.clone()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_server_that_passes_over_associated_data_is_seen() {
        let answer = |warnings: &str| {
            let body =
                format!(r#"{{"data":{{"ciphertext":"vault:v1:AAAA"}},"warnings":{warnings}}}"#);
            bound::<Sealed>("x", &reply(&body)).expect("an answer").is_some()
        };
        assert!(answer("null") && answer("[]") && answer(r#"["the key is old"]"#));
        assert!(!answer(
            r#"["Endpoint ignored these unrecognized parameters: [associated_data]"]"#
        ));
        for body in [
            "",
            "{}",
            r#"{"data":null}"#,
            r#"{"data":{}}"#,
            "<html>",
            r#"{"data":{"ciphertext":1}}"#,
        ] {
            assert!(bound::<Sealed>("x", &reply(body)).is_err(), "{body}");
        }
    }
}
