//! The PIN that a session is logged in with: given, or in a file.

use std::fmt;
use std::path::PathBuf;

use zeroize::{Zeroize, Zeroizing};

use crate::kms::{KmsError, Verdict};

/// A PIN: wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize)]
#[zeroize(drop)]
pub struct Pin(Vec<u8>);

impl Pin {
    /// Of these bytes, but for line ends behind them.
    pub fn new(text: &[u8]) -> Self {
        let end = text.iter().rposition(|b| !b"\r\n".contains(b)).map_or(0, |last| last + 1);
        Self(text[..end].to_vec())
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// Where the PIN is had from. A file is read anew at each login.
#[derive(Clone, Debug)]
pub enum PinSource {
    /// It was given.
    Given(Pin),
    /// It lies in a file.
    File(PathBuf),
}

impl PinSource {
    /// The PIN as it is now.
    ///
    /// # Errors
    /// `Credentials` where the file cannot be read, or a PIN is empty.
    pub(super) fn pin(&self) -> Result<Pin, KmsError> {
        let bad = |why: String| KmsError::new(Verdict::Credentials, "Pkcs11Pin", why);
        let (pin, place) = match self {
            Self::Given(pin) => (pin.clone(), "the PIN of the token".to_owned()),
            Self::File(path) => {
                let place = path.display().to_string();
                let text = std::fs::read(path).map_err(|e| bad(format!("{place}: {e}")))?;
                (Pin::new(&Zeroizing::new(text)), place)
            }
        };
        if pin.0.is_empty() {
            return Err(bad(format!("{place}: it is empty")));
        }
        Ok(pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_has_no_line_end_and_is_never_printed() {
        assert_eq!(Pin::new(b" 12 34 \r\n").expose(), b" 12 34 ");
        assert_eq!(Pin::new(b"\n\n").expose(), b"");
        assert_eq!(format!("{:?}", PinSource::Given(Pin::new(b"1234"))), "Given(Pin(…))");
    }

    #[test]
    fn a_file_without_a_pin_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let source = PinSource::File(file.path().to_owned());
        let e = source.pin().expect_err("it is empty");
        assert!(e.verdict == Verdict::Credentials && e.message.contains("empty"), "{e}");
        std::fs::write(file.path(), "1234\n").expect("written");
        assert_eq!(source.pin().expect("a PIN").expose(), b"1234");
        let absent = PinSource::File(file.path().join("x")).pin().expect_err("no such file");
        assert_eq!(absent.verdict, Verdict::Credentials);
    }
}
