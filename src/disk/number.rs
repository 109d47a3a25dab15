//! The number by which the kernel tells one mounted filesystem from another.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Statx, StatxAttributes, StatxFlags, statx};

/// The device number of a mounted filesystem (`st_dev`): one on this machine, in each mount
/// namespace and under each of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNumber {
    major: u32,
    minor: u32,
}

/// `major:minor`, as in /proc/self/mountinfo and in sysfs.
impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

impl DeviceNumber {
    /// Of what is mounted at a path; `None` where nothing is.
    ///
    /// # Errors
    /// Of the path.
    pub fn mounted_at(path: &Path) -> io::Result<Option<Self>> {
        let stat = look(path)?;
        let is_root = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
        Ok(is_root.then_some(Self::in_stat(&stat)))
    }

    /// Of the filesystem that a file lies in.
    ///
    /// # Errors
    /// Of the path.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::in_stat(&look(path)?))
    }

    /// Of the filesystem that an open file lies in.
    ///
    /// # Errors
    /// Of the descriptor.
    pub fn of_open(file: impl AsFd) -> io::Result<Self> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
        Ok(Self::in_stat(&statx(file, c"", flags, StatxFlags::empty())?))
    }

    /// From its text, `major:minor`.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The part that tells filesystems without a device of their own apart.
    pub fn minor(self) -> u32 {
        self.minor
    }

    fn in_stat(stat: &Statx) -> Self {
        Self { major: stat.stx_dev_major, minor: stat.stx_dev_minor }
    }
}

/// The daemon of a FUSE mount is not asked, which may hang: the kernel knows the number. With no
/// attribute wanted it tells it even to those whom the mount does not let in.
fn look(path: &Path) -> io::Result<Statx> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    Ok(statx(CWD, path, flags, StatxFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountpoint_has_a_number_and_a_folder_below_it_has_none() {
        let proc = DeviceNumber::mounted_at(Path::new("/proc")).expect("there").expect("mounted");
        assert_eq!(DeviceNumber::of(Path::new("/proc/self/fd")).expect("there"), proc);
        assert_eq!(DeviceNumber::mounted_at(Path::new("/proc/self/fd")).expect("there"), None);
        assert!(DeviceNumber::mounted_at(Path::new("/proc/absent")).is_err());
        assert_eq!(DeviceNumber::parse(&proc.to_string()), Some(proc));
        assert_eq!(DeviceNumber::parse("0"), None);
    }
}
