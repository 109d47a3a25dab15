//! From the SDK's errors to the classes that a mount acts on.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};

use crate::kms::{KmsError, Verdict};

/// A definite no about the master key.
const REFUSED: &[&str] = &[
    "AccessDeniedException",
    "CustomKeyStoreInvalidStateException",
    "DisabledException",
    "InvalidGrantTokenException",
    "InvalidKeyUsageException",
    "KMSInvalidStateException",
    "NotFoundException",
];

/// About one wrapped key.
const THIS_KEY: &[&str] = &["IncorrectKeyException", "InvalidCiphertextException"];

/// The KMS knows nobody by these credentials.
const UNKNOWN_CALLER: &[&str] = &[
    "InvalidClientTokenId",
    // The account has been suspended, or has never been activated.
    "OptInRequired",
    "UnrecognizedClientException",
];

/// The credentials do not serve to be known by.
const CREDENTIALS: &[&str] = &[
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
];

/// The request itself.
const INVALID: &[&str] = &[
    "AlreadyExistsException",
    "ConflictException",
    "InvalidAliasNameException",
    "InvalidArnException",
    "InvalidMarkerException",
    "MalformedPolicyDocumentException",
    "TagException",
    "UnsupportedOperationException",
    "ValidationException",
];

/// What an error code means. A code that is not known here is no definite answer: a proxy or a
/// newer KMS must not lock a mount.
fn verdict(code: &str) -> Verdict {
    let has = |list: &[&str]| list.contains(&code);
    match () {
        () if has(REFUSED) => Verdict::Refused,
        () if has(THIS_KEY) => Verdict::ThisKey,
        () if has(CREDENTIALS) => Verdict::Credentials,
        () if has(UNKNOWN_CALLER) => Verdict::UnknownCaller,
        () if has(INVALID) => Verdict::Invalid,
        () => Verdict::Unavailable,
    }
}

/// Whether a signature was refused for its time.
fn is_clock(code: &str, message: &str) -> bool {
    let told = ["Signature expired", "Signature not yet current"];
    ["RequestExpired", "RequestTimeTooSkewed"].contains(&code)
        || code == "InvalidSignatureException" && told.iter().any(|t| message.contains(t))
}

/// The error of a call; `what` says what was asked of which key.
pub(super) fn of<E>(what: &str, e: &SdkError<E, HttpResponse>) -> KmsError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    if let SdkError::ServiceError(answer) = e {
        let status = answer.raw().status().as_u16();
        return answered(what, status, answer.err().code(), answer.err().message());
    }
    if let Some(cause) = causes(e).find_map(|e| e.downcast_ref::<CredentialsError>()) {
        return no_credentials(what, cause);
    }
    let (code, why) = match e {
        SdkError::TimeoutError(_) => ("Timeout", "no answer in time".to_owned()),
        SdkError::DispatchFailure(d) if d.is_timeout() => {
            ("Timeout", "no answer in time".to_owned())
        }
        SdkError::DispatchFailure(_) => ("Unreachable", deepest(e)),
        SdkError::ResponseError(_) => ("MalformedAnswer", deepest(e)),
        _ => ("Unreachable", deepest(e)),
    };
    KmsError::new(Verdict::Unavailable, code, format!("{what}: {why}"))
}

/// A server's error answer. Only a code counts: an HTTP status alone may be a proxy's.
fn answered(what: &str, status: u16, code: Option<&str>, message: Option<&str>) -> KmsError {
    if status < 400 {
        // The SDK calls a body that it cannot read an error of the service.
        return malformed(what, "the answer is not what the API describes");
    }
    let message = message.unwrap_or("no reason given");
    let Some(code) = code.map(str::trim).filter(|c| !c.is_empty()) else {
        let text = format!("{what}: HTTP {status} without a KMS error code");
        return KmsError::new(Verdict::Unavailable, "ServerFault", text);
    };
    // A name may be followed by a type: `AccessDenied` is what IAM's own services say.
    let code = match code {
        "AccessDenied" => "AccessDeniedException",
        other => other,
    };
    let verdict = if status >= 500 { Verdict::Unavailable } else { verdict(code) };
    if is_clock(code, message) {
        let text = format!("{what}: this machine's clock is off: {message}");
        return KmsError::new(Verdict::Credentials, code, text);
    }
    let text = match (verdict, code) {
        (Verdict::Credentials, "ExpiredTokenException" | "ExpiredToken") => {
            format!("{what}: the credentials have expired: {message}")
        }
        (Verdict::Credentials | Verdict::UnknownCaller, _) => {
            format!("{what}: the credentials are not accepted: {message}")
        }
        _ => format!("{what}: {message}"),
    };
    KmsError::new(verdict, code, text)
}

fn no_credentials(what: &str, cause: &CredentialsError) -> KmsError {
    let (code, why) = match cause {
        CredentialsError::CredentialsNotLoaded(_) => {
            ("CredentialsMissing", "no credentials were found")
        }
        CredentialsError::ProviderTimedOut(_) => {
            ("CredentialsTimeout", "the credentials could not be had in time")
        }
        CredentialsError::InvalidConfiguration(_) => {
            ("CredentialsInvalid", "the configuration of the credentials is wrong")
        }
        _ => ("CredentialsFailed", "the credentials could not be had"),
    };
    let text = format!("{what}: {why}: {}", deepest(cause));
    KmsError::new(Verdict::Credentials, code, text)
}

/// An error and what is behind it, outermost first.
fn causes<'a>(e: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(e);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

/// The innermost cause: the outer ones say "dispatch failure" and the like.
fn deepest(e: &(dyn Error + 'static)) -> String {
    causes(e).last().map_or_else(String::new, ToString::to_string)
}

/// An answer that is no answer to the question.
pub(super) fn malformed(what: &str, why: &str) -> KmsError {
    KmsError::new(Verdict::Unavailable, "MalformedAnswer", format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(status: u16, code: &str, message: &str) -> Verdict {
        answered("Decrypt", status, Some(code), Some(message)).verdict
    }

    #[test]
    fn each_code_has_its_class() {
        for code in ["DisabledException", "KMSInvalidStateException", "NotFoundException"] {
            assert_eq!(class(400, code, ""), Verdict::Refused);
        }
        assert_eq!(class(403, "AccessDenied", ""), Verdict::Refused);
        assert_eq!(class(400, "IncorrectKeyException", ""), Verdict::ThisKey);
        for code in ["ThrottlingException", "KMSInternalException", "KeyUnavailableException"] {
            assert_eq!(class(400, code, ""), Verdict::Unavailable);
        }
        assert_eq!(class(400, "ValidationException", ""), Verdict::Invalid);
        assert_eq!(class(400, "ExpiredTokenException", ""), Verdict::Credentials);
        for code in ["InvalidClientTokenId", "OptInRequired", "UnrecognizedClientException"] {
            assert_eq!(class(400, code, ""), Verdict::UnknownCaller);
        }
    }

    /// A fault of the server is no refusal, whatever its body says; nor is a page of a proxy.
    #[test]
    fn only_a_code_of_the_kms_refuses() {
        assert_eq!(class(500, "AccessDeniedException", ""), Verdict::Unavailable);
        assert_eq!(class(403, "SomethingNewException", ""), Verdict::Unavailable);
        assert_eq!(answered("Decrypt", 403, None, None).verdict, Verdict::Unavailable);
    }

    #[test]
    fn a_clock_that_is_off_is_said() {
        let told = "Signature expired: 20260101T000000Z is now earlier than 20260101T001000Z";
        let e = answered("Decrypt", 400, Some("InvalidSignatureException"), Some(told));
        assert_eq!(e.verdict, Verdict::Credentials);
        assert!(e.message.contains("clock"), "{e}");
        let wrong = answered("Decrypt", 400, Some("InvalidSignatureException"), Some("no match"));
        assert!(!wrong.message.contains("clock"), "{wrong}");
    }
}
