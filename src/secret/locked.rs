//! Boxes in memory that is locked (mlock(2)) and left out of core dumps (MADV_DONTDUMP).
//!
//! Values are carved from chunks of whole pages, by size class, so that four thousand data keys
//! need a few hundred locked pages and not one page each. A slot is wiped when its value is
//! dropped. Chunks are never returned: the cache that fills them is bounded.
#![allow(unsafe_code)] // Raw slots of mmap(2)ed memory; each block says why it is sound.

use std::mem::{align_of, size_of};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous};

const CHUNK: usize = 64 << 10;
const SMALLEST: usize = 32;
const CLASSES: usize = 8; // 32, 64, … 4096 bytes

static FAILURES: AtomicU64 = AtomicU64::new(0);
static FREE: [Mutex<Slots>; CLASSES] = [const { Mutex::new(Slots(Vec::new())) }; CLASSES];

/// How many chunks could not be locked, so that their keys may reach swap: RLIMIT_MEMLOCK is
/// too small. The daemon warns when this is not zero.
pub fn lock_failures() -> u64 {
    FAILURES.load(Ordering::Relaxed)
}

struct Slots(Vec<NonNull<u8>>);

// SAFETY: a pointer in the list is owned by the list alone until it is handed out.
unsafe impl Send for Slots {}

fn class_of(size: usize) -> usize {
    let rounded = size.max(SMALLEST).next_power_of_two();
    (rounded / SMALLEST).trailing_zeros() as usize
}

fn refill(slots: &mut Slots, size: usize) {
    // SAFETY: a fresh anonymous mapping overlaps nothing.
    let chunk = unsafe {
        mmap_anonymous(
            std::ptr::null_mut(),
            CHUNK,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }
    .expect("64 KiB can be mapped, or the process is out of memory as in any allocation");
    // SAFETY: the range is the mapping just made, and neither call changes its content.
    unsafe {
        if mlock(chunk, CHUNK).is_err() {
            FAILURES.fetch_add(1, Ordering::Relaxed);
        }
        // Without it a core dump may hold keys; the process is not dumpable in the first place.
        let _ = madvise(chunk, CHUNK, Advice::LinuxDontDump);
    }
    for i in 0..CHUNK / size {
        // SAFETY: i * size < CHUNK, so the pointer stays inside the mapping.
        let slot = unsafe { chunk.cast::<u8>().add(i * size) };
        slots.0.push(NonNull::new(slot).expect("mmap never returns null on success"));
    }
}

/// A box whose content is locked in memory, not dumped, and wiped when dropped.
pub struct Locked<T>(NonNull<T>);

// SAFETY: the box owns its value exclusively, as `Box` does.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: a shared reference to the box gives only shared references to the value.
unsafe impl<T: Sync> Sync for Locked<T> {}

impl<T> Locked<T> {
    const CLASS: usize = {
        assert!(size_of::<T>() <= SMALLEST << (CLASSES - 1) && align_of::<T>() <= SMALLEST);
        0
    };

    /// Moves `value` into locked memory. What the caller's stack held of it stays there: build
    /// keys in place where that matters.
    pub fn new(value: T) -> Self {
        let class = Self::CLASS + class_of(size_of::<T>());
        let mut slots = FREE[class].lock();
        if slots.0.is_empty() {
            refill(&mut slots, SMALLEST << class);
        }
        let slot = slots.0.pop().expect("a refilled list is not empty").cast::<T>();
        // SAFETY: the slot is at least size_of::<T>() long (its class), aligned to its own
        // size, which is a power of two ≥ 32 ≥ align_of::<T>(), and nobody else has it.
        unsafe { slot.write(value) };
        Self(slot)
    }
}

impl<T> Deref for Locked<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the slot holds a valid T from `new` until `drop`.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        let class = class_of(size_of::<T>());
        // SAFETY: the value is dropped once, here; then its bytes are wiped with volatile
        // writes, which the compiler may not leave out, inside the slot's own bounds.
        unsafe {
            self.0.drop_in_place();
            let bytes = self.0.cast::<u8>().as_ptr();
            for i in 0..size_of::<T>() {
                bytes.add(i).write_volatile(0);
            }
        }
        FREE[class].lock().0.push(self.0.cast());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_value_leaves_zeros() {
        let boxed = Locked::new([0xa5u8; 48]);
        let at = boxed.0.as_ptr() as usize;
        drop(boxed);
        // The slot is on the free list; look at it through a fresh box of the same class.
        let again: Vec<Locked<[u8; 48]>> = (0..CHUNK / 64).map(|_| Locked::new([1; 48])).collect();
        assert!(again.iter().any(|b| b.0.as_ptr() as usize == at));
    }

    #[test]
    fn many_sizes_keep_their_values() {
        let small: Vec<_> = (0..5000u32).map(Locked::new).collect();
        let large: Vec<_> = (0..100u64).map(|i| Locked::new([i; 200])).collect();
        assert!(small.iter().enumerate().all(|(i, b)| **b == u32::try_from(i).expect("small")));
        assert!(large.iter().enumerate().all(|(i, b)| b[199] == i as u64));
    }
}
