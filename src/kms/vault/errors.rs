//! From answers that are errors to the classes that a mount acts on.
//!
//! The API has no codes: there is a status, and a text. A status alone may be a proxy's, so only
//! an answer of the server's own form counts, and of those only a text that is known. Each is
//! tried on a real server in `tests/kms/vault`.

use std::error::Error;

use serde::Deserialize;

use super::http::Reply;
use crate::kms::{KmsError, Verdict};

/// The code of a refusal of whoever asks: a policy that does not let it, or a token that is
/// revoked, expired or none.
pub(super) const ACCESS_DENIED: &str = "AccessDeniedException";
/// The code of a 400 whose text is not known: no definite answer, and the same one if asked again.
pub(super) const UNKNOWN: &str = "UnknownAnswer";
/// There is no Transit where one was asked.
const NO_TRANSIT: &str = "NoTransit";
/// A type of key that there is none of. Encrypt under a key that is not there would make one, and
/// fails on this instead.
pub(super) const NO_TYPE: &str = "kmsfs-makes-no-key";

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// What a text of the server's says, by a part of it.
const TEXTS: &[(u16, &str, Verdict, &str)] = {
    use Verdict::{Invalid, Refused, ThisKey};
    &[
        (400, "encryption key not found", Refused, "NotFoundException"),
        (400, "key not found", Refused, "NotFoundException"),
        (400, NO_TYPE, Refused, "NotFoundException"),
        (400, "soft-deleted key", Refused, "DisabledException"),
        (400, "disallowed by policy (too old)", Refused, "DisabledException"),
        (400, "message authentication failed", ThisKey, "InvalidCiphertextException"),
        (400, "invalid ciphertext", ThisKey, "InvalidCiphertextException"),
        (400, "derived key", Invalid, "InvalidKeyUsageException"),
        (400, "non-AEAD cipher", Invalid, "InvalidKeyUsageException"),
        (403, "permission denied", Refused, ACCESS_DENIED),
        (404, "no handler for route", Refused, NO_TRANSIT),
        (404, "namespace not found", Refused, NO_TRANSIT),
        (404, "unsupported path", Invalid, "UnsupportedOperationException"),
        (405, "unsupported operation", Invalid, "UnsupportedOperationException"),
    ]
};

/// The error of an answer.
pub(super) fn of(what: &str, reply: &Reply) -> KmsError {
    let status = reply.status;
    let Ok(Errors { errors }) = serde_json::from_slice::<Errors>(&reply.body) else {
        let why = format!("{what}: HTTP {status}, which is no answer of Vault's");
        return KmsError::new(Verdict::Unavailable, "ServerFault", why);
    };
    // Some are lists made for a terminal.
    let text = errors.join("; ").replace(['\n', '\t'], " ");
    let text = text.trim();
    let known = |(of, part, _, _): &&(u16, &str, _, _)| *of == status && text.contains(part);
    let (verdict, code) = match TEXTS.iter().find(known) {
        Some((_, _, verdict, code)) => (*verdict, *code),
        // An object that is not there is answered so, with nothing else.
        None if status == 404 && text.is_empty() => (Verdict::Refused, "NotFoundException"),
        None if status == 400 => (Verdict::Unavailable, UNKNOWN),
        None if status == 429 => (Verdict::Unavailable, "ThrottlingException"),
        None if status == 503 => (Verdict::Unavailable, "Sealed"),
        None if (300..400).contains(&status) => (Verdict::Unavailable, "Standby"),
        None => (Verdict::Unavailable, "ServerFault"),
    };
    let why = match code {
        "NotFoundException" if text.is_empty() => format!("{what}: there is no such key"),
        NO_TRANSIT => format!("{what}: there is no Transit at this path ({text})"),
        "InvalidKeyUsageException" => {
            format!("{what}: kmsfs needs a key of type aes256-gcm96 that is not derived ({text})")
        }
        ACCESS_DENIED => format!("{what}: {text}: by a policy, or the token is revoked or expired"),
        _ => format!("{what}: {text} (HTTP {status})"),
    };
    KmsError::new(verdict, code, why)
}

/// The error of a request that got no answer.
pub(super) fn unreachable(what: &str, e: &ureq::Error) -> KmsError {
    let (code, why) = match e {
        ureq::Error::Timeout(_) => ("Timeout", "no answer in time".to_owned()),
        ureq::Error::BodyExceedsLimit(_) => ("MalformedAnswer", "a far too long answer".to_owned()),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::TimedOut => {
            ("Timeout", "no answer in time".to_owned())
        }
        other => ("Unreachable", deepest(other)),
    };
    let why = if why.contains("UnknownIssuer") {
        format!("{why}: name its authority with --vault-cacert FILE")
    } else {
        why
    };
    KmsError::new(Verdict::Unavailable, code, format!("{what}: {why}"))
}

/// The innermost cause.
fn deepest(e: &(dyn Error + 'static)) -> String {
    let mut last = e;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// An answer that is no answer to the question.
pub(super) fn malformed(what: &str, why: &str) -> KmsError {
    KmsError::new(Verdict::Unavailable, "MalformedAnswer", format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn class(status: u16, text: &str) -> (Verdict, String) {
        let body = serde_json::json!({ "errors": [text] }).to_string().into_bytes();
        let e = of("Decrypt", &Reply { status, body: Zeroizing::new(body) });
        (e.verdict, e.code)
    }

    #[test]
    fn each_text_counts_with_its_own_status_alone() {
        for (status, text, verdict, code) in TEXTS {
            assert_eq!(class(*status, text), (*verdict, (*code).to_owned()), "{text}");
            for other in [500, 502, 503] {
                assert_eq!(class(other, text).0, Verdict::Unavailable, "{other} {text}");
            }
        }
        assert_eq!(class(400, "something new").0, Verdict::Unavailable);
        assert_eq!(class(503, "Vault is sealed"), (Verdict::Unavailable, "Sealed".to_owned()));
        assert_eq!(class(429, "").1, "ThrottlingException");
        assert_eq!(class(404, ""), (Verdict::Refused, "NotFoundException".to_owned()));
        assert_eq!(class(307, "").1, "Standby");
    }

    #[test]
    fn a_page_of_a_proxy_refuses_nothing() {
        for (status, body) in
            [(403, "<html>permission denied</html>"), (404, ""), (400, "{}"), (404, "[]")]
        {
            let body = Zeroizing::new(body.as_bytes().to_vec());
            assert_eq!(of("Decrypt", &Reply { status, body }).verdict, Verdict::Unavailable);
        }
    }
}
