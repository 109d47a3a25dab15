//! A memory map of a file, for reading.
#![allow(unsafe_code)] // mmap(2) and a read inside what it gave; each block says why it is sound.

use std::os::fd::AsFd;

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// A shared map, kept until the process ends.
pub struct Map {
    at: *const u8,
    len: usize,
}

impl Map {
    /// Maps the first `len` bytes; `len` is not zero.
    ///
    /// # Errors
    /// Of mmap(2).
    pub fn new(file: impl AsFd, len: usize) -> rustix::io::Result<Self> {
        // SAFETY: the kernel chooses where; nothing is there before.
        let at =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
        Ok(Self { at: at.cast_const().cast(), len })
    }

    /// The byte at `i`, modulo the length; the process dies of SIGBUS where the file does not
    /// give it.
    pub fn byte(&self, i: usize) -> u8 {
        // SAFETY: inside the map, which is never unmapped; others may change it, hence volatile.
        unsafe { self.at.add(i % self.len).read_volatile() }
    }
}
