//! From what a module answers to the classes that a mount acts on.
//!
//! Only what is a definite no about the key is a refusal. A token that is not there, and whatever
//! is new, is an outage. Each that SoftHSM gives is tried in `tests/kms/pkcs11`.

use cryptoki::error::{Error, RvError};

use crate::kms::{KmsError, Verdict};

/// The token is not where it was: it is looked for anew.
pub(super) const NO_TOKEN: &str = "TokenNotPresent";
/// A wrapped key that does not open.
pub(super) const BAD_CIPHERTEXT: &str = "InvalidCiphertextException";

/// The class and the code of an error.
fn class(e: &Error) -> (Verdict, &'static str) {
    use RvError as Rv;
    use Verdict::{Credentials, Invalid, Refused, ThisKey, Unavailable};
    let rv = match e {
        Error::Pkcs11(rv, _) => rv,
        Error::LibraryLoading(_) | Error::MissingSymbol(_) => {
            return (Unavailable, "ModuleNotLoaded");
        }
        Error::NullFunctionPointer | Error::NotSupported => {
            return (Invalid, "UnsupportedOperationException");
        }
        _ => return (Unavailable, "MalformedAnswer"),
    };
    match rv {
        Rv::KeyFunctionNotPermitted => (Refused, "DisabledException"),
        Rv::EncryptedDataInvalid | Rv::EncryptedDataLenRange => (ThisKey, BAD_CIPHERTEXT),
        Rv::KeyTypeInconsistent
        | Rv::KeySizeRange
        | Rv::MechanismInvalid
        | Rv::MechanismParamInvalid => (Invalid, "InvalidKeyUsageException"),
        Rv::ActionProhibited
        | Rv::AttributeReadOnly
        | Rv::AttributeTypeInvalid
        | Rv::AttributeValueInvalid
        | Rv::FunctionNotSupported
        | Rv::TemplateIncomplete
        | Rv::TemplateInconsistent
        | Rv::TokenWriteProtected => (Invalid, "UnsupportedOperationException"),
        Rv::PinExpired
        | Rv::PinIncorrect
        | Rv::PinInvalid
        | Rv::PinLenRange
        | Rv::PinLocked
        | Rv::UserPinNotInitialized => (Credentials, "Pkcs11Pin"),
        Rv::CryptokiNotInitialized
        | Rv::DeviceRemoved
        | Rv::SlotIdInvalid
        | Rv::TokenNotPresent
        | Rv::TokenNotRecognized => (Unavailable, NO_TOKEN),
        Rv::ObjectHandleInvalid
        | Rv::KeyHandleInvalid
        | Rv::OperationActive
        | Rv::SessionClosed
        | Rv::SessionHandleInvalid
        | Rv::UserNotLoggedIn => (Unavailable, "SessionLost"),
        Rv::SessionCount | Rv::DeviceMemory | Rv::HostMemory => (Unavailable, "LimitExceeded"),
        _ => (Unavailable, "DeviceError"),
    }
}

/// The error of a call that was made for `what`.
pub(super) fn of(what: &str, e: &Error) -> KmsError {
    let (verdict, code) = class(e);
    let said = match e {
        Error::Pkcs11(rv, function) => format!("{rv:?} of C_{function:?}"),
        other => other.to_string(),
    };
    let why = match code {
        "DisabledException" => {
            format!("{what}: the key is disabled: the token does not let it be used so ({said})")
        }
        "InvalidKeyUsageException" => {
            format!("{what}: kmsfs needs an AES key of 256 bits and CKM_AES_GCM ({said})")
        }
        "UnsupportedOperationException" => format!("{what}: the token does not do that ({said})"),
        "Pkcs11Pin" => format!("{what}: the token does not take the PIN ({said})"),
        _ => format!("{what}: {said}"),
    };
    KmsError::new(verdict, code, why)
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    fn class_of(rv: RvError) -> Verdict {
        let e = of("Decrypt under x", &Error::Pkcs11(rv, Function::Decrypt));
        assert!(e.message.starts_with("Decrypt under x: "), "{e}");
        e.verdict
    }

    #[test]
    fn only_a_no_about_the_key_is_a_refusal() {
        assert_eq!(class_of(RvError::KeyFunctionNotPermitted), Verdict::Refused);
        for rv in [
            RvError::GeneralError,
            RvError::FunctionFailed,
            RvError::DeviceError,
            RvError::DeviceRemoved,
            RvError::TokenNotPresent,
            RvError::SessionHandleInvalid,
            RvError::ObjectHandleInvalid,
            RvError::UserNotLoggedIn,
            RvError::CryptokiNotInitialized,
            RvError::SessionCount,
            RvError::FunctionRejected,
            RvError::VendorDefined(0x8000_0001),
        ] {
            assert_eq!(class_of(rv), Verdict::Unavailable, "{rv:?}");
        }
        for rv in [RvError::PinIncorrect, RvError::PinLocked, RvError::PinExpired] {
            assert_eq!(class_of(rv), Verdict::Credentials, "{rv:?}");
        }
        assert_eq!(class_of(RvError::EncryptedDataInvalid), Verdict::ThisKey);
        assert_eq!(class_of(RvError::MechanismInvalid), Verdict::Invalid);
    }

    #[test]
    fn an_error_says_the_answer_and_the_call() {
        let e = of("x", &Error::Pkcs11(RvError::DeviceRemoved, Function::Encrypt));
        assert_eq!(e.to_string(), "TokenNotPresent: x: DeviceRemoved of C_Encrypt");
    }
}
