//! When reading changes a file's time of access, as mount(8) names it: the kernel keeps these times,
//! by the mount that a file is opened through. No daemon can: each call that sets one (utimensat(2))
//! changes the time of the last change of attributes, too. So a store is opened through a mount of
//! its own, in no folder, which says what the mount over it is to say.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, OpenTreeFlags, open_tree};

use super::{Dir, real, sys};

/// When reading changes a time of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Where it is older than the last change of the file, or than a day.
    Relative,
    /// Each time.
    Always,
    /// Never.
    Never,
}

/// When reading changes times of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessTimes {
    /// Those of files, and of links.
    pub files: Counted,
    /// Those of folders: as of files, or never.
    pub folders: Counted,
}

impl AccessTimes {
    /// No read changes any.
    pub const NEVER: Self = Self { files: Counted::Never, folders: Counted::Never };

    /// As the flags of a mount say.
    pub fn of(flags: MountFlags) -> Self {
        let files = if flags.contains(MountFlags::NOATIME) {
            Counted::Never
        } else if flags.contains(MountFlags::STRICTATIME) {
            Counted::Always
        } else {
            Counted::Relative
        };
        let folders = if flags.contains(MountFlags::NODIRATIME) { Counted::Never } else { files };
        Self { files, folders }
    }

    /// `MOUNT_ATTR_*` of linux/mount.h.
    fn attributes(self) -> u64 {
        const NOATIME: u64 = 0x10;
        const STRICTATIME: u64 = 0x20;
        const NODIRATIME: u64 = 0x80;
        let files = match self.files {
            Counted::Relative => 0,
            Counted::Always => STRICTATIME,
            Counted::Never => NOATIME,
        };
        if self.folders == Counted::Never { files | NODIRATIME } else { files }
    }
}

/// Opens a directory by its path, through a mount of its own with these times of access.
///
/// # Errors
/// EPERM, for whoever may not mount; ENOSYS before Linux 5.12; of the filesystem.
pub fn open_dir_with(path: &Path, times: AccessTimes) -> io::Result<Dir> {
    /// `MOUNT_ATTR__ATIME`, and the attribute of folders.
    const ALL: u64 = 0x70 | 0x80;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, path, clone)?;
    sys::set_mount_attributes(&mount, times.attributes(), ALL)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(&mount, ".", flags, Mode::empty())?;
    real::RealDir::top_of_mount(folder, mount)
}
