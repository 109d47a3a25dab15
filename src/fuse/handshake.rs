//! What is asked of the kernel's FUSE at the handshake, and what it grants.

use fuser::{InitFlags, KernelConfig};

use super::terms::PageCache;

/// The kernel's and our limit for one write, and so for one read.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// Requests that the kernel makes on its own at once. Over rings each lies in memory of ours.
const BACKGROUND: u16 = 64;
const BACKGROUND_OVER_RINGS: u16 = 16;

/// Whether there are rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// There are.
    Rings,
    /// There are none.
    Nothing,
}

/// Asks for all that a mount can use. FUSE_ASYNC_DIO is left out: with it the kernel does not look
/// again, after an asynchronous direct write, for pages that somebody read meanwhile, and they stay
/// as they were before the write. Without it such a write is sent before io_submit(2) returns, and
/// what the cache has of it is dropped before the program learns that it is done. Answers `Rings`
/// where they were offered and are taken: the kernel then waits for them.
pub(super) fn negotiate(config: &mut KernelConfig, cache: PageCache, offer: Offer) -> Offer {
    let mut wanted = vec![
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        // File handles are good for as long as the file is there: NFS servers hold them.
        InitFlags::FUSE_EXPORT_SUPPORT,
    ];
    // The two belong together: with DONT_MASK alone, default ACLs would be applied twice.
    wanted.push(InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK);
    match cache {
        PageCache::WriteThrough => {}
        PageCache::WriteBack => wanted.push(InitFlags::FUSE_WRITEBACK_CACHE),
        // Shared maps, which SQLite's WAL mode takes.
        PageCache::Direct => wanted.push(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP),
    }
    for capability in wanted {
        if let Err(missing) = config.add_capabilities(capability) {
            log::warn!("this kernel's FUSE lacks {missing:?}");
        }
    }
    let takes_rings =
        offer == Offer::Rings && config.add_capabilities(InitFlags::FUSE_OVER_IO_URING).is_ok();
    let (agreed, background) = match takes_rings {
        true => (Offer::Rings, BACKGROUND_OVER_RINGS),
        false => (Offer::Nothing, BACKGROUND),
    };
    // Each returns the nearest possible value where the kernel allows less.
    let _ = config.set_max_write(MAX_WRITE);
    let _ = config.set_max_readahead(MAX_WRITE);
    let _ = config.set_max_background(background);
    let _ = config.set_congestion_threshold(background);
    agreed
}
