//! A key that is sealed to the recipients of the recovery, as members of a JSON object.

use data_encoding::{BASE64, HEXLOWER};

use super::volume_file::parse_mac;
use crate::recovery::{MAX_SEALED, Sealed};

/// The members `recovery` and `recovery_mac`.
pub(super) fn encode(sealed: Option<&Sealed>) -> (Option<String>, Option<String>) {
    let sealed = sealed.map(|s| (BASE64.encode(&s.age), HEXLOWER.encode(&s.mac)));
    sealed.unzip()
}

/// Both or none.
///
/// # Errors
/// What is wrong with them.
pub(super) fn parse(age: Option<String>, mac: Option<String>) -> Result<Option<Sealed>, String> {
    let (age, mac) = match (age, mac) {
        (Some(age), Some(mac)) => (age, mac),
        (None, None) => return Ok(None),
        _ => return Err("recovery: a sealed key or its MAC is missing".to_owned()),
    };
    let age = BASE64.decode(age.as_bytes()).map_err(|e| format!("recovery: {e}"))?;
    if age.is_empty() || age.len() > MAX_SEALED {
        return Err(format!("recovery: a sealed key of {} bytes", age.len()));
    }
    Ok(Some(Sealed { age, mac: parse_mac(&mac)? }))
}
