//! Sealing and opening records.
//!
//! record 0: header 24 | nonce 12 | ciphertext 4044 | tag 16
//! record k: nonce 12 | ciphertext 4068 | tag 16
//! AAD: header 24 | record index u64 LE

use aes_gcm_siv::aead::{AeadInOut, KeyInit, inout::InOutBuf};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;

use super::geometry::{HEADER, PAGE, capacity};
use super::header::Header;
use crate::ids::{FileId, VolumeId};
use crate::secret::{Key, Locked, random_bytes, wipe};

const NONCE: usize = 12;
const TAG: usize = 16;

/// A record that does not authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record fails authentication")]
pub struct Unauthentic;

/// What a record held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Data.
    Data,
    /// A hole: zeros.
    Hole,
}

fn derive(data_key: &Key, volume: VolumeId, info: &[u8], file: FileId, out: &mut [u8; 32]) {
    Hkdf::<Sha256>::new(Some(&volume.0), data_key.expose())
        .expand_multi_info(&[info, &file.0], out)
        .expect("32 bytes are within HKDF's limit of 255 blocks");
}

/// What a sidecar line proves its data key with.
pub fn check(data_key: &Key, volume: VolumeId, file: FileId) -> [u8; 32] {
    let mut out = [0; 32];
    derive(data_key, volume, b"kmsfs v1 check", file, &mut out);
    out
}

/// The cipher of one file's content. Its state lies in locked memory and is wiped on drop.
pub struct ContentCipher {
    state: Locked<Aes256GcmSiv>,
    header: [u8; HEADER],
    file: FileId,
}

impl std::fmt::Debug for ContentCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ContentCipher({})", self.file)
    }
}

impl ContentCipher {
    /// The cipher of a file's data key.
    pub fn new(data_key: &Key, volume: VolumeId, file: FileId) -> Self {
        let key = Key::build(|out| derive(data_key, volume, b"kmsfs v1 content", file, out));
        let state = Locked::new(Aes256GcmSiv::new(key.expose().into()));
        Self { state, header: Header { file }.encode(), file }
    }

    /// The file.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// The file's header.
    pub fn header(&self) -> [u8; HEADER] {
        self.header
    }

    fn aad(&self, record: u64) -> [u8; HEADER + 8] {
        let mut aad = [0; HEADER + 8];
        aad[..HEADER].copy_from_slice(&self.header);
        aad[HEADER..].copy_from_slice(&record.to_le_bytes());
        aad
    }

    /// Seals a record whole into `page` (4096 bytes, header included); `plain` is at most the
    /// record's capacity and is padded with zeros.
    pub fn seal(&self, record: u64, plain: &[u8], page: &mut [u8], mut nonce: [u8; NONCE]) {
        let room = capacity(record) as usize;
        if plain.len() < room {
            let mut padded = [0; PAGE as usize];
            padded[..plain.len()].copy_from_slice(plain);
            self.seal(record, &padded[..room], page, nonce);
            return wipe(&mut padded);
        }
        let page = match record {
            0 => {
                page[..HEADER].copy_from_slice(&self.header);
                &mut page[HEADER..]
            }
            _ => page,
        };
        let (head, rest) = page.split_at_mut(NONCE);
        let (body, tail) = rest.split_at_mut(room);
        loop {
            let tag = self.encrypt(record, nonce, plain, body);
            if tag.iter().any(|b| *b != 0) {
                head.copy_from_slice(&nonce);
                return tail.copy_from_slice(&tag);
            }
            nonce = random_bytes(); // A zero tag means a hole.
        }
    }

    /// Opens a record: `page` is 4096 bytes, `out` exactly its capacity. For a hole, and where
    /// it fails, `out` is zeros.
    ///
    /// # Errors
    /// [`Unauthentic`].
    pub fn open(&self, record: u64, page: &[u8], out: &mut [u8]) -> Result<Opened, Unauthentic> {
        if record == 0 && page[..HEADER] != self.header {
            out.fill(0);
            return Err(Unauthentic);
        }
        if is_hole(page) {
            out.fill(0);
            return Ok(Opened::Hole);
        }
        let sealed = if record == 0 { &page[HEADER..] } else { page };
        let (nonce, rest) = sealed.split_at(NONCE);
        let (body, tag) = rest.split_at(capacity(record) as usize);
        let opened = self.decrypt(record, (nonce, tag), body, out);
        if opened.is_err() {
            // The crate leaves what it decrypted in a separate output buffer.
            wipe(out);
        }
        opened.map(|()| Opened::Data)
    }

    #[cfg(not(kmsfs_copying))]
    fn encrypt(&self, record: u64, nonce: [u8; NONCE], plain: &[u8], body: &mut [u8]) -> [u8; TAG] {
        let inout = InOutBuf::new(plain, body).expect("both are one record's capacity");
        self.state
            .encrypt_inout_detached(&Nonce::from(nonce), &self.aad(record), inout)
            .expect("a record is far below RFC 8452's limit of 2^36 bytes")
            .into()
    }

    #[cfg(not(kmsfs_copying))]
    fn decrypt(
        &self,
        record: u64,
        (nonce, tag): (&[u8], &[u8]),
        body: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let nonce = Nonce::try_from(nonce).map_err(|_| Unauthentic)?;
        let tag = Tag::try_from(tag).map_err(|_| Unauthentic)?;
        let inout = InOutBuf::new(body, out).map_err(|_| Unauthentic)?;
        let opened = self.state.decrypt_inout_detached(&nonce, &self.aad(record), inout, &tag);
        opened.map_err(|_| Unauthentic)
    }

    /// For benches alone (`scripts/race`): what everything but the cipher costs.
    #[cfg(kmsfs_copying)]
    fn encrypt(&self, _: u64, _: [u8; NONCE], plain: &[u8], body: &mut [u8]) -> [u8; TAG] {
        body.copy_from_slice(plain);
        [1; TAG]
    }

    #[cfg(kmsfs_copying)]
    fn decrypt(
        &self,
        _: u64,
        _: (&[u8], &[u8]),
        body: &[u8],
        out: &mut [u8],
    ) -> Result<(), Unauthentic> {
        out.copy_from_slice(body);
        Ok(())
    }
}

/// Whether a page is a hole, which its tag alone says.
pub fn is_hole(page: &[u8]) -> bool {
    page[PAGE as usize - TAG..].iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PageId;

    fn cipher(slot: u16) -> ContentCipher {
        let key = Key::build(|k| k.fill(1));
        ContentCipher::new(&key, VolumeId([2; 16]), FileId::new(PageId([3; 14]), slot))
    }

    #[test]
    fn a_record_opens_only_where_it_was_sealed() {
        let plain = vec![7; 4068];
        let (mut page, mut out) = (vec![0; 4096], vec![9; 4068]);
        cipher(0).seal(1, &plain, &mut page, [4; 12]);
        assert_eq!(cipher(0).open(1, &page, &mut out), Ok(Opened::Data));
        assert_eq!(out, plain);
        assert_eq!(cipher(0).open(2, &page, &mut out), Err(Unauthentic));
        assert!(out.iter().all(|b| *b == 0), "nothing unauthenticated is handed out");
        assert_eq!(cipher(1).open(1, &page, &mut out), Err(Unauthentic));
    }

    #[test]
    fn every_flipped_byte_is_seen_but_for_a_zeroed_tag() {
        let (mut page, mut out) = (vec![0; 4096], vec![0; 4044]);
        cipher(0).seal(0, b"short", &mut page, [4; 12]);
        for i in 0..page.len() {
            page[i] ^= 1;
            assert_eq!(cipher(0).open(0, &page, &mut out), Err(Unauthentic), "byte {i}");
            page[i] ^= 1;
        }
        page[4080..].fill(0);
        assert_eq!(cipher(0).open(0, &page, &mut out), Ok(Opened::Hole));
    }
}
