//! `--recovery`: age recipients, or files of them.

use std::fs;
use std::path::Path;

use zeroize::Zeroizing;

use crate::console::failure::{Exit, Failure};
use crate::recovery::{BadRecipient, Recipients, entries};

/// The recipients that these name; `None` where nothing does.
///
/// # Errors
/// [`Failure`]. A text that is none is not shown: it may be a secret in the wrong place.
pub(super) fn read(named: &[String]) -> Result<Option<Recipients>, Failure> {
    if named.is_empty() {
        return Ok(None);
    }
    let mut texts = Vec::new();
    for name in named {
        match name.starts_with("age1") {
            true => texts.push(checked(name, "--recovery")?),
            false => from_file(name, &mut texts)?,
        }
    }
    Recipients::try_from(texts).map(Some).map_err(|e| bad("--recovery", &e))
}

fn bad(at: &str, e: &BadRecipient) -> Failure {
    Failure::new(Exit::Usage, format!("{at}: {e}")).hint(
        "make an identity: age-keygen -o FILE; and its recipient: age-keygen -y FILE. Keep FILE \
         away from this machine",
    )
}

fn checked(text: &str, at: &str) -> Result<String, Failure> {
    match Recipients::new([text]) {
        Ok(_) => Ok(text.to_owned()),
        Err(e) => Err(bad(at, &e)),
    }
}

/// As age reads a file of recipients (`age -R`).
fn from_file(name: &str, texts: &mut Vec<String>) -> Result<(), Failure> {
    // A secret that was typed here is the name of no file, and is not shown.
    if let Err(e @ BadRecipient::Secret) = Recipients::new([name]) {
        return Err(bad("--recovery", &e));
    }
    let text = fs::read_to_string(Path::new(name));
    // It may be a file of identities.
    let text = Zeroizing::new(text.map_err(|e| {
        Failure::new(Exit::Config, format!("{name}: the recipients cannot be read: {e}"))
    })?);
    for (n, line) in entries(&text) {
        texts.push(checked(line, &format!("{name}: line {n}"))?);
    }
    Ok(())
}
