//! A memory map of a file, and what the page cache holds of it.

use std::fs::File;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A map, unmapped when dropped.
pub struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    /// A map for reading.
    pub fn read_only(file: &File, len: usize) -> Self {
        Self::new(file, len, ProtFlags::READ)
    }

    /// A shared, writable map.
    pub fn shared(file: &File, len: usize) -> Self {
        Self::new(file, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn new(file: &File, len: usize, protection: ProtFlags) -> Self {
        // SAFETY: the kernel chooses where; nothing is there before.
        let at = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0) };
        Self { at: at.expect("mapped").cast(), len }
    }

    /// The byte at `i`; SIGBUS where the file does not give it.
    pub fn byte(&self, i: usize) -> u8 {
        assert!(i < self.len);
        // SAFETY: inside the map.
        unsafe { self.at.add(i).read_volatile() }
    }

    /// Sets the byte at `i`.
    pub fn set(&self, i: usize, value: u8) {
        assert!(i < self.len);
        // SAFETY: inside the map, which is writable, or the process dies of it.
        unsafe { self.at.add(i).write_volatile(value) }
    }

    /// The `n`th number of 8 bytes.
    pub fn word(&self, n: usize) -> u64 {
        assert!((n + 1) * 8 <= self.len);
        // SAFETY: inside the map, which begins at a page's start.
        unsafe { self.at.cast::<u64>().add(n).read_volatile() }
    }

    /// Sets the `n`th number of 8 bytes.
    pub fn set_word(&self, n: usize, value: u64) {
        assert!((n + 1) * 8 <= self.len);
        // SAFETY: as above; the map is writable, or the process dies of it.
        unsafe { self.at.cast::<u64>().add(n).write_volatile(value) }
    }

    /// Saves the page at `at` (msync(2) with MS_SYNC).
    pub fn sync(&self, at: usize) -> std::io::Result<()> {
        assert!(at + 4096 <= self.len);
        // SAFETY: a page of the map.
        let page = unsafe { self.at.add(at) };
        // SAFETY: as above.
        unsafe { rustix::mm::msync(page.cast(), 4096, rustix::mm::MsyncFlags::SYNC) }?;
        Ok(())
    }

    /// How many of its pages the page cache holds (mincore(2)).
    pub fn resident(&self) -> usize {
        let mut pages = vec![0u8; self.len.div_ceil(4096)];
        // SAFETY: the vector has a byte for each page of the map.
        let told = unsafe { libc::mincore(self.at.cast(), self.len, pages.as_mut_ptr()) };
        assert_eq!(told, 0, "{}", std::io::Error::last_os_error());
        pages.iter().filter(|p| **p & 1 == 1).count()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it is our own map, and nothing borrows from it.
        let _ = unsafe { munmap(self.at.cast(), self.len) };
    }
}
