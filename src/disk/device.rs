//! What the device beneath the store promises, where it matters to records written in place.

use std::fs;
use std::path::Path;

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

/// Looks the device `dev` (a `st_dev`) up in sysfs; `bsize` is the filesystem's block size.
/// What sysfs does not know is taken as the careful answer.
pub fn probe(dev: u64, bsize: u64) -> Device {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let block = format!("/sys/dev/block/{major}:{minor}");
    if !Path::new(&block).exists() {
        // No block device: memory (tmpfs), or a filesystem that sends pages over a network.
        let memory = major == 0 && bsize == 4096;
        let writeback = if memory { Writeback::Stable } else { Writeback::WaitFirst };
        return Device { writeback, tearing: None };
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

/// How many bytes wait in the page cache to be written back, of all filesystems together
/// (proc_meminfo(5)); 0 where the system does not tell.
pub fn dirty_bytes() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let dirty = meminfo.lines().find_map(|l| l.strip_prefix("Dirty:"));
    let kib = dirty.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}
