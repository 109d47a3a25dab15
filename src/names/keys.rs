//! The subkeys of the volume key.

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::KeyInit;
use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::ids::VolumeId;
use crate::secret::{Key, Locked};

/// The ciphers of names, links and attributes, and the keys of MACs. They lie in
/// locked memory and are wiped on drop.
pub struct VolumeKeys {
    pub(super) name: Locked<Aes256GcmSiv>,
    pub(super) link: Locked<Aes256GcmSiv>,
    pub(super) xattr_value: Locked<Aes256GcmSiv>,
    xattr_name: Key,
    settings: Key,
    recovery: Key,
    fingerprint: [u8; 32],
}

impl std::fmt::Debug for VolumeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeKeys(…)")
    }
}

impl VolumeKeys {
    /// Derives them from the volume key.
    pub fn derive(volume_key: &Key, volume: VolumeId) -> Self {
        let subkey = |info: &str| {
            Key::build(|out| {
                Hkdf::<Sha256>::new(Some(&volume.0), volume_key.expose())
                    .expand(format!("kmsfs v1 {info}").as_bytes(), out)
                    .expect("32 bytes are within HKDF's limit of 255 blocks");
            })
        };
        let cipher = |info: &str| Locked::new(Aes256GcmSiv::new(subkey(info).expose().into()));
        Self {
            name: cipher("name"),
            link: cipher("link"),
            xattr_value: cipher("xattr-value"),
            xattr_name: subkey("xattr-name"),
            settings: subkey("settings-mac"),
            recovery: subkey("recovery-mac"),
            fingerprint: *subkey("fingerprint").expose(),
        }
    }

    fn hmac(key: &Key, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key.expose())
            .expect("HMAC takes keys of any length");
        mac.update(bytes);
        mac
    }

    /// The MAC of the settings' exact text.
    pub fn mac_settings(&self, text: &[u8]) -> [u8; 32] {
        Self::hmac(&self.settings, text).finalize().into_bytes().into()
    }

    /// Whether a MAC is the settings', in constant time.
    pub fn verify_settings(&self, text: &[u8], mac: &[u8; 32]) -> bool {
        Self::hmac(&self.settings, text).verify_slice(mac).is_ok()
    }

    /// The MAC of the exact text of a source, which holds beside these settings alone. No text of
    /// JSON has a newline in it that is not escaped, so the two cannot be taken apart otherwise.
    pub fn mac_source(&self, settings: &[u8], source: &[u8]) -> [u8; 32] {
        self.over_source(settings, source).finalize().into_bytes().into()
    }

    /// Whether a MAC is the source's, in constant time.
    pub fn verify_source(&self, settings: &[u8], source: &[u8], mac: &[u8; 32]) -> bool {
        self.over_source(settings, source).verify_slice(mac).is_ok()
    }

    fn over_source(&self, settings: &[u8], source: &[u8]) -> Hmac<Sha256> {
        let mut mac = Self::hmac(&self.settings, settings);
        mac.update(b"\n");
        mac.update(source);
        mac
    }

    /// The MAC of a key that is sealed to the recipients of the recovery: over what the key is of,
    /// no two of which begin alike, and the sealed key.
    pub fn mac_recovery(&self, of: &[u8], sealed: &[u8]) -> [u8; 32] {
        self.over_sealed(of, sealed).finalize().into_bytes().into()
    }

    /// Whether a MAC is a sealed key's, in constant time.
    pub fn verify_recovery(&self, of: &[u8], sealed: &[u8], mac: &[u8; 32]) -> bool {
        self.over_sealed(of, sealed).verify_slice(mac).is_ok()
    }

    fn over_sealed(&self, of: &[u8], sealed: &[u8]) -> Hmac<Sha256> {
        let mut mac = Self::hmac(&self.recovery, of);
        mac.update(sealed);
        mac
    }

    pub(super) fn hash_xattr_name(&self, name: &[u8]) -> [u8; 32] {
        Self::hmac(&self.xattr_name, name).finalize().into_bytes().into()
    }

    /// What a user's machine remembers the volume by. It says nothing of the key.
    pub fn fingerprint(&self) -> String {
        HEXLOWER.encode(&self.fingerprint)
    }
}
