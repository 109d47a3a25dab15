//! What the device beneath the store promises, where it matters to records written in place.

use std::fs;
use std::path::Path;

use super::FsStat;

/// Whether a page under write-back may be changed without tearing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writeback {
    /// The kernel waits itself (stable pages), or the store lies in memory.
    Stable,
    /// Wait for write-back before a record is rewritten (`sync_file_range`).
    WaitFirst,
}

/// What was found out about the store's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// See [`Writeback`].
    pub writeback: Writeback,
    /// Why a record of 4096 bytes may be torn by a power cut here; `None` where it cannot be.
    pub tearing: Option<String>,
}

/// Filesystems in memory, and those that let no page change that is on its way to the disk: by
/// their numbers in linux/magic.h. Any other without a block device passes pages on to another
/// filesystem (overlayfs, virtiofs, 9p, NFS, FUSE), of which nothing is known here.
const STABLE: [u64; 3] = [TMPFS, RAMFS, BTRFS];
const TMPFS: u64 = 0x0102_1994;
const RAMFS: u64 = 0x8584_58f6;
const BTRFS: u64 = 0x9123_683e;

/// Looks the device `dev` (a `st_dev`) of a filesystem up in sysfs. What is not known is taken as
/// the careful answer.
pub fn probe(dev: u64, filesystem: &FsStat) -> Device {
    let bsize = filesystem.bsize;
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let block = format!("/sys/dev/block/{major}:{minor}");
    if !Path::new(&block).exists() {
        return Device { writeback: without_block_device(filesystem.kind), tearing: None };
    }
    let queue = [format!("{block}/queue"), format!("{block}/../queue")]
        .into_iter()
        .find(|p| Path::new(p).exists())
        .unwrap_or_default();
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("{queue}/{name}")).ok()?.trim().parse().ok()
    };
    let stable = number("stable_writes") == Some(1);
    let tearing = if bsize < 4096 {
        Some(format!("the store's filesystem has blocks of {bsize} bytes, and records need 4096"))
    } else {
        match number("physical_block_size") {
            Some(n) if n < 4096 => Some(format!(
                "the device writes {n} bytes atomically, and a record needs 4096: a power cut in \
                 the middle of a write may damage that record"
            )),
            _ => None,
        }
    };
    let writeback = if stable { Writeback::Stable } else { Writeback::WaitFirst };
    Device { writeback, tearing }
}

fn without_block_device(kind: u64) -> Writeback {
    if STABLE.contains(&kind) { Writeback::Stable } else { Writeback::WaitFirst }
}

/// How many bytes wait in the page cache to be written back, of all filesystems together
/// (proc_meminfo(5)); 0 where the system does not tell.
pub fn dirty_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let dirty = meminfo.lines().find_map(|l| l.strip_prefix("Dirty:"));
    let kib = dirty.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_and_what_keeps_pages_stable_needs_no_wait() {
        let (overlay, virtiofs, v9fs) = (0x794c_7630, 0x6a65_6a63, 0x0102_1997);
        for passes_on in [overlay, virtiofs, v9fs, 0] {
            assert_eq!(without_block_device(passes_on), Writeback::WaitFirst, "{passes_on:x}");
        }
        assert_eq!(without_block_device(BTRFS), Writeback::Stable);
        let memory = crate::disk::open_dir(Path::new("/dev/shm")).expect("there");
        let filesystem = memory.statfs().expect("known");
        let dev = memory.stat_self().expect("known").dev;
        assert_eq!((filesystem.kind, filesystem.namemax), (TMPFS, 255));
        assert_eq!(probe(dev, &filesystem).writeback, Writeback::Stable);
    }
}
