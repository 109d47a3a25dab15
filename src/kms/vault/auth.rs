//! How a token is had: given, from a file, or by logging in.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::{Zeroize, Zeroizing};

use super::answer;
use super::http::{Ask, Http};
use super::place::{Place, bad, read};
use crate::kms::{KmsError, is_path};

/// A token: wiped on drop, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize)]
#[zeroize(drop)]
pub struct Token(Vec<u8>);

impl Token {
    /// Of these bytes, but for white space around them.
    pub fn new(text: &[u8]) -> Self {
        Self(text.trim_ascii().to_vec())
    }

    pub(super) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How a token is had. Files are read anew each time.
#[derive(Clone, Debug)]
pub enum Auth {
    /// It was given.
    Token(Token),
    /// It lies in a file.
    TokenFile(PathBuf),
    /// AppRole.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// The role's id.
        role_id: String,
        /// The file of the secret id, where the role wants one.
        secret_id_file: Option<PathBuf>,
    },
    /// Kubernetes: a service account's token for one of the server's.
    Kubernetes {
        /// Where the method is mounted.
        mount: String,
        /// The role.
        role: String,
        /// The file of the service account's token.
        jwt_file: PathBuf,
    },
    /// The client certificate of TLS.
    Certificate {
        /// Where the method is mounted.
        mount: String,
        /// The role, where it is not to be found by the certificate.
        role: Option<String>,
    },
}

#[derive(Serialize)]
struct AppRole<'a> {
    role_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Kubernetes<'a> {
    role: &'a str,
    jwt: &'a str,
}

#[derive(Serialize)]
struct Certificate<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

fn text_of(path: &Path) -> Result<Zeroizing<String>, KmsError> {
    let wrong = |why: &str| bad("VaultFile", format!("{}: {why}", path.display()));
    let bytes = Zeroizing::new(read(path)?);
    let text = str::from_utf8(&bytes).map_err(|_| wrong("it is no text"))?;
    if text.trim().is_empty() {
        return Err(wrong("it is empty"));
    }
    Ok(Zeroizing::new(text.trim().to_owned()))
}

impl Auth {
    /// Whether it gives another token than the last, when that one is no good any more.
    pub(super) fn can_begin_anew(&self) -> bool {
        !matches!(self, Self::Token(_))
    }

    /// Whether it is a login, which leaves a token with the server each time.
    pub(super) fn is_login(&self) -> bool {
        !matches!(self, Self::Token(_) | Self::TokenFile(_))
    }

    /// A token, and what the server said of how long it lasts, where this was a login.
    ///
    /// # Errors
    /// `Credentials` where a file is missing or empty; else the server's.
    pub(super) fn token(&self, place: &Place) -> Result<(Token, Option<answer::Login>), KmsError> {
        let (mount, body) = match self {
            Self::Token(token) => return Ok((token.clone(), None)),
            Self::TokenFile(path) => {
                return text_of(path).map(|text| (Token::new(text.as_bytes()), None));
            }
            Self::AppRole { mount, role_id, secret_id_file } => {
                let secret_id = secret_id_file.as_deref().map(text_of).transpose()?;
                let secret_id = secret_id.as_ref().map(|text| text.as_str());
                (mount, answer::body(&AppRole { role_id, secret_id }))
            }
            Self::Kubernetes { mount, role, jwt_file } => {
                let jwt = text_of(jwt_file)?;
                (mount, answer::body(&Kubernetes { role, jwt: &jwt }))
            }
            Self::Certificate { mount, role } => {
                (mount, answer::body(&Certificate { name: role.as_deref() }))
            }
        };
        if !is_path(mount) {
            return Err(bad("VaultPath", format!("{mount:?} is no path of an auth method")));
        }
        let what = &format!("the login at {mount}");
        // A connection of its own: the certificate's file may be another by now.
        let http = Http::new(place)?;
        let reply = http.ask(what, (&format!("auth/{mount}/login"), Ask::Post(&body)), None)?;
        let login = answer::login(what, &reply)?;
        Ok((login.client_token.clone(), Some(login)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_trimmed_and_never_printed() {
        let token = Token::new(b" s.abc\n");
        assert_eq!(token.expose(), b"s.abc");
        assert_eq!(format!("{:?}", Auth::Token(token)), "Token(Token(…))");
    }

    #[test]
    fn a_file_without_a_token_is_told() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let auth = Auth::TokenFile(file.path().to_owned());
        let e = auth.token(&Place::sample()).err().expect("it is empty");
        assert!(e.message.contains("empty"), "{e}");
        std::fs::write(file.path(), "s.xyz\n").expect("written");
        assert_eq!(auth.token(&Place::sample()).expect("a token").0.expose(), b"s.xyz");
    }
}
