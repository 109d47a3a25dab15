//! The memory of ring entries: for each a page of headers and a payload. The kernel writes a
//! request there and reads the reply from there.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use super::abi::{COMMIT_ID, HEADERS, NO_COMMIT_ID};
use crate::secret::wipe;

const PAGE: usize = 4096;

/// Where an entry's headers and payload lie, for the kernel: two `struct iovec`, which have to
/// stay where they are.
#[repr(C)]
struct Iovec {
    base: u64,
    len: u64,
}

/// Headers and a payload for each entry of a lane, in memory that the kernel writes and reads.
///
/// An entry belongs to the kernel, or to the one [`Slot`](super::slot::Slot) that holds its
/// request: from the completion that announces the request until the command that commits the
/// reply. That is the protocol of the kernel's ring, and what makes the references here sound:
/// nobody but the slot asks for them, and the slot is gone when it has committed.
pub(super) struct Memory {
    base: NonNull<u8>,
    size: usize,
    payload: usize,
    iovecs: Vec<[Iovec; 2]>,
    /// How many bytes of each payload may hold something.
    used: Vec<AtomicUsize>,
    /// Whether most of a payload's pages may be in memory.
    full: Vec<AtomicBool>,
    full_count: AtomicUsize,
}

/// Payloads that keep their pages: as many large requests as go on at once, mostly. The kernel
/// takes the entry that was free last, so others are rarely used.
const KEPT: usize = 16;
/// From here on a payload counts as full.
const FULL: usize = 128 << 10;

// SAFETY: the mapping is owned by this value alone; see above for who may look into it.
unsafe impl Send for Memory {}
// SAFETY: as above: each entry has one user at a time.
unsafe impl Sync for Memory {}

impl Memory {
    /// For so many entries with payloads of so many bytes each. Pages that were never used take
    /// no memory.
    pub(super) fn new(entries: usize, payload: usize) -> io::Result<Self> {
        let payload = payload.next_multiple_of(PAGE);
        let size = entries * (PAGE + payload);
        let (prot, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a fresh anonymous mapping, at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), size, prot, flags) }?;
        // SAFETY: the mapping that was made just now; it is left out of core dumps.
        let _ = unsafe { madvise(base, size, Advice::LinuxDontDump) };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let iovecs = |index: usize| {
            let at = base.as_ptr() as u64 + (index * (PAGE + payload)) as u64;
            let headers = Iovec { base: at, len: HEADERS as u64 };
            [headers, Iovec { base: at + PAGE as u64, len: payload as u64 }]
        };
        let full = (0..entries).map(|_| AtomicBool::new(false)).collect();
        let used = (0..entries).map(|_| AtomicUsize::new(0)).collect();
        let (iovecs, full_count) = ((0..entries).map(iovecs).collect(), AtomicUsize::new(0));
        Ok(Self { base, size, payload, iovecs, used, full, full_count })
    }

    /// The address of an entry's two `struct iovec`.
    pub(super) fn iovecs(&self, index: usize) -> u64 {
        self.iovecs[index].as_ptr() as u64
    }

    /// How many entries there are.
    pub(super) fn entries(&self) -> usize {
        self.iovecs.len()
    }

    fn at(&self, index: usize, offset: usize) -> *mut u8 {
        assert!(index < self.iovecs.len(), "the kernel names entries that were registered");
        // SAFETY: within the mapping, for the index is of an entry.
        unsafe { self.base.as_ptr().add(index * (PAGE + self.payload) + offset) }
    }

    /// An entry's headers.
    pub(super) fn headers(&self, index: usize) -> &[u8; HEADERS] {
        // SAFETY: mapped, and the caller's alone; see `Memory`.
        unsafe { &*self.at(index, 0).cast() }
    }

    /// The same, to be changed.
    #[allow(clippy::mut_from_ref)] // See `Memory`.
    pub(super) fn headers_mut(&self, index: usize) -> &mut [u8; HEADERS] {
        // SAFETY: mapped, and the caller's alone; see `Memory`.
        unsafe { &mut *self.at(index, 0).cast() }
    }

    /// An entry's payload.
    pub(super) fn payload(&self, index: usize) -> &[u8] {
        // SAFETY: mapped, and the caller's alone; see `Memory`.
        unsafe { std::slice::from_raw_parts(self.at(index, PAGE), self.payload) }
    }

    /// The same, to be changed.
    #[allow(clippy::mut_from_ref)] // See `Memory`.
    pub(super) fn payload_mut(&self, index: usize) -> &mut [u8] {
        // SAFETY: mapped, and the caller's alone; see `Memory`.
        unsafe { std::slice::from_raw_parts_mut(self.at(index, PAGE), self.payload) }
    }

    /// An entry has a request with so many bytes of payload: what lies behind them is of an earlier
    /// one, and is wiped.
    pub(super) fn begin(&self, index: usize, payload: usize) {
        let payload = payload.min(self.payload);
        let used = self.used[index].swap(payload, Ordering::Relaxed);
        if used > payload {
            wipe(&mut self.payload_mut(index)[payload..used]);
        }
    }

    /// So many bytes of a payload may hold something, at least.
    pub(super) fn note_used(&self, index: usize, len: usize) {
        self.used[index].fetch_max(len.min(self.payload), Ordering::Relaxed);
    }

    /// Wipes a payload as far as it was used. Where many payloads are large at once their pages
    /// are given back instead, which wipes them too: they are not seen again.
    pub(super) fn wipe(&self, index: usize) {
        let len = self.used[index].swap(0, Ordering::Relaxed);
        if len >= FULL && !self.full[index].load(Ordering::Relaxed) {
            if self.full_count.fetch_add(1, Ordering::Relaxed) >= KEPT {
                self.full_count.fetch_sub(1, Ordering::Relaxed);
                let payload = self.at(index, PAGE).cast();
                // SAFETY: the payload's pages, which are the caller's alone; see `Memory`.
                let given = unsafe { madvise(payload, self.payload, Advice::LinuxDontNeed) };
                if given.is_ok() {
                    return;
                }
            } else {
                self.full[index].store(true, Ordering::Relaxed);
            }
        }
        wipe(&mut self.payload_mut(index)[..len]);
    }

    /// After a reply was committed: wipes the payload, unless the kernel has put the entry's next
    /// request there already.
    ///
    /// The entry itself says so, whenever its completion comes: [`super::abi::reply`] leaves no commit
    /// id in the headers, and each request brings one. The kernel can write here only while this
    /// process's thread is in a system call of its ring, for these are addresses of its own: no
    /// request comes in between the look and the wipe.
    pub(super) fn wipe_unless_asked(&self, index: usize) {
        // SAFETY: mapped and aligned; the kernel may have changed it in the last system call.
        let commit_id = unsafe { self.at(index, COMMIT_ID).cast::<u64>().read_volatile() };
        if commit_id == NO_COMMIT_ID {
            self.wipe(index);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; the ring that knew of it is gone before.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size) };
    }
}
