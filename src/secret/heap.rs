//! A global allocator that wipes what is freed.
//!
//! TLS stacks, base64 codecs and request buffers copy keys and plaintext through heap memory
//! that is not ours to wipe one by one; wiping every freed block covers them all.
#![allow(unsafe_code)] // GlobalAlloc is an unsafe trait; each method forwards to the system's.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, with every freed block zeroized first.
pub struct WipingHeap;

// SAFETY: every method upholds GlobalAlloc's contract by forwarding to `System`.
unsafe impl GlobalAlloc for WipingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's obligations are passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is `layout.size()` bytes long, still allocated, and the caller's
        // to give up.
        unsafe {
            block.write_bytes(0, layout.size());
            keep(block);
            System.dealloc(block, layout);
        }
    }

    // The default `realloc` is alloc + copy + dealloc, so a grown block's old place is wiped too.
}

/// Gives memory that was freed back to the system. The GNU allocator keeps what lies below a
/// block in use, which after a walk of a large tree is nearly all of it; malloc_trim(3). Other
/// allocators are left to themselves.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number and moves no block in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes the compiler believe that the memory behind `at` is read, so that a write to it is
/// not dropped as dead.
fn keep(at: *mut u8) {
    // SAFETY: the asm is empty; it takes an address and touches nothing.
    unsafe {
        std::arch::asm!("/* {0} */", in(reg) at, options(nostack, preserves_flags));
    }
}

/// Overwrites a buffer of plaintext with zeros, at the speed of memset.
pub fn wipe(buf: &mut [u8]) {
    buf.fill(0);
    keep(buf.as_mut_ptr());
}
