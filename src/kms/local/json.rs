//! The one spelling of the keystore's JSON files.
//!
//! ```text
//! {"body":{…},"sha256":"SHA-256 of the body's bytes, lower-case hex"}\n
//! ```
//! The digest finds damage, such as a flipped bit in a state; it keeps out nobody who means to
//! change the file. What is secret in it is authenticated by the cipher that seals it.

use data_encoding::HEXLOWER;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

#[derive(Serialize)]
struct Written<'a, T> {
    body: &'a T,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read<T> {
    body: T,
    // Compared as part of the whole file's bytes.
    #[serde(rename = "sha256")]
    _sha256: String,
}

/// The file that holds `body`.
pub(super) fn encode<T: Serialize>(body: &T) -> Zeroizing<Vec<u8>> {
    let plain = Zeroizing::new(to_vec(body));
    let sha256 = HEXLOWER.encode(&Sha256::digest(plain.as_slice()));
    let mut file = Zeroizing::new(to_vec(&Written { body, sha256 }));
    file.push(b'\n');
    file
}

/// The body of a file.
///
/// # Errors
/// What is wrong with it: not JSON, an unknown field, another digest, another spelling.
pub(super) fn parse<T: Serialize + DeserializeOwned>(file: &[u8]) -> Result<T, String> {
    let read: Read<T> = serde_json::from_slice(file).map_err(|e| e.to_string())?;
    if encode(&read.body).as_slice() != file {
        return Err("its digest or its spelling is wrong".to_owned());
    }
    Ok(read.body)
}

fn to_vec(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("structs of strings and numbers always serialize")
}
