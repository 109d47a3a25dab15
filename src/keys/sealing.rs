//! Keys sealed to the recipients of the recovery, and who sealed them.
//!
//! Anyone can seal a key to a public key. So each sealed key has a MAC under the volume key: who
//! can write the store cannot put a key of his own in the place of the volume's, under which the
//! keys of files would then be.

use crate::ids::BranchId;
use crate::names::VolumeKeys;
use crate::recovery::{Recipients, Sealed};
use crate::secret::{Key, scrub_stack};

/// What a sealed key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// The volume.
    Volume,
    /// A branch.
    Branch(BranchId),
}

impl Of {
    /// What its MAC begins with.
    fn text(self) -> Vec<u8> {
        match self {
            Self::Volume => b"volume".to_vec(),
            Self::Branch(id) => [b"branch", &id.0[..]].concat(),
        }
    }
}

/// Seals a key to these recipients.
pub fn seal(keys: &VolumeKeys, recipients: &Recipients, of: Of, key: &Key) -> Sealed {
    let age = recipients.seal(key);
    scrub_stack();
    let mac = keys.mac_recovery(&of.text(), &age);
    Sealed { age, mac }
}

/// Whether somebody who had the volume key sealed it, as this key.
pub fn is_own(keys: &VolumeKeys, of: Of, sealed: &Sealed) -> bool {
    keys.verify_recovery(&of.text(), &sealed.age, &sealed.mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::recovery::Identities;
    use crate::recovery::sample::SECRET;

    #[test]
    fn every_flipped_byte_and_every_other_place_is_seen() {
        let identities = Identities::parse(SECRET).expect("one");
        let recipients = Recipients::try_from(identities.recipients().collect::<Vec<_>>());
        let recipients = recipients.expect("one");
        let (volume_key, volume) = (Key::random(), VolumeId([1; 16]));
        let keys = VolumeKeys::derive(&volume_key, volume);
        let (key, of) = (Key::random(), Of::Branch(BranchId([2; 16])));
        let sealed = seal(&keys, &recipients, of, &key);
        assert!(is_own(&keys, of, &sealed));
        assert_eq!(identities.open(&sealed.age).expect("ours").expose(), key.expose());
        for i in 0..sealed.age.len() {
            let mut flipped = sealed.clone();
            flipped.age[i] ^= 1;
            assert!(!is_own(&keys, of, &flipped), "byte {i}");
        }
        for i in 0..sealed.mac.len() {
            let mut flipped = sealed.clone();
            flipped.mac[i] ^= 1;
            assert!(!is_own(&keys, of, &flipped), "byte {i} of the MAC");
        }
        for other in [Of::Volume, Of::Branch(BranchId([3; 16]))] {
            assert!(!is_own(&keys, other, &sealed), "{other:?}");
        }
        for keys in [
            VolumeKeys::derive(&Key::random(), volume),
            VolumeKeys::derive(&volume_key, VolumeId([9; 16])),
        ] {
            assert!(!is_own(&keys, of, &sealed), "another volume");
        }
    }
}
