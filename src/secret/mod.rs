//! Key material in memory: locked against swap, left out of core dumps, wiped when dropped.

mod heap;
mod locked;
mod scrub;

use std::cell::RefCell;
use std::fmt;

use zeroize::Zeroize;

pub use heap::{WipingHeap, give_back, wipe};
pub use locked::{Locked, lock_failures};
pub use scrub::scrub_stack;

/// `N` bytes from the kernel's random number generator (getrandom(2)).
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// Fills `buf` from the kernel's random number generator.
pub fn fill_random(buf: &mut [u8]) {
    getrandom::fill(buf).expect("getrandom(2) cannot fail once the kernel's pool is initialised");
}

/// Nonces drawn ahead: one call of the kernel's generator for many records.
const AHEAD: usize = 64;

thread_local! {
    static NONCES: RefCell<Vec<[u8; 12]>> = const { RefCell::new(Vec::new()) };
}

/// A nonce that was never handed out before, from the kernel's random number generator.
pub fn random_nonce() -> [u8; 12] {
    NONCES.with_borrow_mut(|ahead| {
        if ahead.is_empty() {
            ahead.resize(AHEAD, [0; 12]);
            fill_random(ahead.as_flattened_mut());
        }
        // Taken out: no later call can see it.
        ahead.pop().unwrap_or_else(random_bytes)
    })
}

/// A 256-bit key. It lies in locked memory, is wiped on drop, and never prints itself.
pub struct Key(Locked<[u8; 32]>);

impl Key {
    /// A fresh random key.
    pub fn random() -> Self {
        Self::build(|bytes| fill_random(bytes))
    }

    /// A key that `fill` writes in place, so that no copy of it is left on a stack.
    pub fn build(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Locked::new([0; 32]);
        fill(&mut key);
        Self(key)
    }

    /// The key in `bytes`, which stay the caller's to wipe; `None` unless there are 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == 32).then(|| Self::build(|key| key.copy_from_slice(bytes)))
    }

    /// The bytes, for a cipher or a key derivation.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self::build(|key| key.copy_from_slice(self.expose()))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// A passphrase: wiped on drop, never printed.
#[derive(Clone, Zeroize)]
#[zeroize(drop)]
pub struct Passphrase(Vec<u8>);

impl Passphrase {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for the key derivation.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_prints_itself() {
        let key = Key::build(|k| k.fill(0x5a));
        assert_eq!(format!("{key:?}"), "Key(…)");
        assert_eq!(format!("{:?}", Passphrase::new(b"hunter2".to_vec())), "Passphrase(…)");
    }

    #[test]
    fn only_32_bytes_make_a_key() {
        assert!(Key::from_slice(&[1; 31]).is_none());
        assert_eq!(Key::from_slice(&[1; 32]).expect("32 bytes").expose(), &[1; 32]);
    }
}
