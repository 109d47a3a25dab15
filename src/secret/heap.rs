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
        // SAFETY: the block is `layout.size()` bytes long and still allocated. The empty asm
        // takes its address, so the compiler cannot drop the write as dead.
        unsafe {
            block.write_bytes(0, layout.size());
            std::arch::asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags));
            System.dealloc(block, layout);
        }
    }

    // The default `realloc` is alloc + copy + dealloc, so a grown block's old place is wiped too.
}
