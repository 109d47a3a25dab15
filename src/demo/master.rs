//! The master key that is taken away, and the words by which the verbs find it.

use std::ffi::OsString;
use std::path::Path;

/// Whose master key it is.
#[derive(Clone)]
pub enum Master {
    /// One in a keystore made for the occasion.
    Embedded,
    /// The user's own, in a KMS elsewhere.
    Remote(Remote),
}

/// A key in a KMS elsewhere.
#[derive(Clone)]
pub struct Remote {
    /// The KMS's name on the command line.
    pub kms: &'static str,
    /// An id, an ARN or `alias/NAME`.
    pub key: String,
    /// How it is reached: words of the command line.
    pub options: Vec<OsString>,
}

/// The key of the demonstration's own keystore that takes the place of a master key.
const EMBEDDED: &str = "alias/kmsfs";
/// Another one of that keystore.
pub const OTHER: &str = "alias/other";

impl Master {
    /// The key, as it could be typed.
    pub fn key(&self) -> &str {
        match self {
            Self::Embedded => EMBEDDED,
            Self::Remote(remote) => &remote.key,
        }
    }

    /// What `init` is told, beside the store.
    pub fn for_init(&self, keystore: &Path) -> Vec<OsString> {
        match self {
            Self::Embedded => own(keystore, None),
            Self::Remote(Remote { kms, key, options }) => {
                let mut all: Vec<OsString> =
                    ["--kms", kms, "--master-key", key].map(OsString::from).to_vec();
                all.extend_from_slice(options);
                all
            }
        }
    }

    /// What `mount` is told: a store knows its keystore by itself.
    pub fn for_mount(&self) -> Vec<OsString> {
        match self {
            Self::Embedded => Vec::new(),
            Self::Remote(remote) => remote.options.clone(),
        }
    }

    /// What `key` is told, before its verb.
    pub fn for_key(&self, keystore: &Path) -> Vec<OsString> {
        match self {
            Self::Embedded => vec!["--keystore".into(), keystore.into()],
            Self::Remote(Remote { kms, options, .. }) => {
                let mut all: Vec<OsString> = vec!["--kms".into(), kms.into()];
                all.extend_from_slice(options);
                all
            }
        }
    }
}

/// What `init` is told for a key of the demonstration's own keystore: [`EMBEDDED`] unless named.
pub fn own(keystore: &Path, key: Option<&str>) -> Vec<OsString> {
    let mut all: Vec<OsString> =
        vec!["--no-passphrase".into(), "--keystore".into(), keystore.into()];
    all.extend(key.into_iter().flat_map(|key| ["--master-key", key].map(OsString::from)));
    all
}
