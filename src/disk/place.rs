//! One filesystem with several device numbers: an overlay whose layers lie on different
//! filesystems shows files under the numbers of their layers (the kernel's overlayfs
//! documentation, "Inode properties"). Inode numbers are unique within each of them alone.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags, statx};

use super::Stat;

/// `STATX_MNT_ID` of linux/stat.h: the mount that an entry is seen in.
const MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x1000);
/// The bits of an inode number that a filesystem may use where it has several device numbers.
const NUMBER: u32 = 56;

/// Where the entries lie that are reached from one folder without leaving its mount.
#[derive(Debug)]
pub(super) struct Place {
    dev: u64,
    mount: Option<u64>,
    /// A mount in no folder (open_tree(2)) is taken apart when the descriptor that made it is
    /// closed. Files in it can be used then still, but the kernel counts who uses them under a lock
    /// that all mounts share.
    _made: Option<OwnedFd>,
    /// The other device numbers of this filesystem, in the order in which they were met.
    others: Mutex<Vec<u64>>,
}

fn mount_of(dir: impl AsFd, name: &OsStr) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let found = statx(dir, name, flags, MOUNT_ID).ok()?;
    (found.stx_mask & MOUNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

impl Place {
    /// That of a folder.
    pub(super) fn of(folder: impl AsFd, stat: &Stat) -> Self {
        let mount = mount_of(folder, OsStr::new(""));
        Self { dev: stat.dev, mount, _made: None, others: Mutex::default() }
    }

    /// That of a folder in a mount that this descriptor made.
    pub(super) fn in_mount(made: OwnedFd, folder: impl AsFd, stat: &Stat) -> Self {
        Self { _made: Some(made), ..Self::of(folder, stat) }
    }

    /// The attributes of what was opened from here: it lies in the same mount.
    pub(super) fn within(&self, stat: Stat) -> Stat {
        if stat.dev == self.dev { stat } else { self.numbered(stat) }
    }

    /// The attributes of an entry. One in another mount keeps its device number.
    pub(super) fn beside(&self, dir: impl AsFd, name: &OsStr, stat: Stat) -> Stat {
        if stat.dev == self.dev {
            return stat;
        }
        match mount_of(dir, name) {
            Some(mount) if Some(mount) == self.mount => self.numbered(stat),
            _ => stat,
        }
    }

    /// As if all had one device number: the other ones come before the inode's own number.
    fn numbered(&self, stat: Stat) -> Stat {
        let mut others = self.others.lock();
        let at = others.iter().position(|dev| *dev == stat.dev);
        let at = at.unwrap_or_else(|| {
            others.push(stat.dev);
            others.len() - 1
        });
        match u8::try_from(at + 1) {
            Ok(at) if stat.ino >> NUMBER == 0 => {
                Stat { dev: self.dev, ino: u64::from(at) << NUMBER | stat.ino, ..stat }
            }
            // Another filesystem's, to all who ask: its number could be somebody else's.
            _ => stat,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk;
    use std::path::Path;

    #[test]
    fn numbers_of_several_devices_stay_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = std::fs::File::open(folder.path()).expect("opened");
        let stat = disk::open_dir(folder.path()).and_then(|d| d.stat_self()).expect("known");
        let place = Place::of(&dir, &stat);
        assert!(place.mount.is_some(), "the kernel tells since Linux 5.8");
        let layer = |dev, ino| place.within(Stat { dev, ino, ..stat });
        assert_eq!(layer(stat.dev, 7), Stat { ino: 7, ..stat });
        let (lower, upper) = (layer(stat.dev + 1, 7), layer(stat.dev + 2, 7));
        assert_eq!((lower.dev, upper.dev), (stat.dev, stat.dev));
        assert_eq!((lower.ino, upper.ino), (1 << NUMBER | 7, 2 << NUMBER | 7));
        assert_eq!(layer(stat.dev + 1, 7), lower, "it keeps its number");
        let large = 1 << NUMBER;
        assert_eq!(layer(stat.dev + 1, large).dev, stat.dev + 1, "it cannot be told apart");
    }

    #[test]
    fn another_mount_is_another_device() {
        let root = std::fs::File::open("/").expect("opened");
        let dir = disk::open_dir(Path::new("/")).expect("opened");
        let place = Place::of(&root, &dir.stat_self().expect("known"));
        let proc = dir.stat(OsStr::new("proc")).expect("known");
        assert_eq!(place.beside(&root, OsStr::new("proc"), proc), proc);
        assert_ne!(proc.dev, place.dev);
    }
}
