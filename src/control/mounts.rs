//! The kmsfs mounts that the kernel lists.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::mount::MountFlags;
use rustix::process::Uid;

use crate::disk::DeviceNumber;

/// A kmsfs mount, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub mountpoint: PathBuf,
    /// Its store.
    pub store: PathBuf,
    /// Its number.
    pub device: DeviceNumber,
    /// Who mounted it: whose process answers for it.
    pub owner: Uid,
    /// What it allows.
    pub flags: MountFlags,
}

impl Mount {
    /// Whether the kernel lists it still, at the same place and with the same number.
    pub(super) fn is_there(&self) -> bool {
        let same = |m: &Self| m.mountpoint == self.mountpoint && m.device == self.device;
        mounts().is_ok_and(|mounts| mounts.iter().any(same))
    }
}

/// The words of mountinfo for flags.
const FLAGS: [(&str, MountFlags); 6] = [
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
];

/// Every kmsfs mount of this mount namespace, from /proc/self/mountinfo (proc(5)).
///
/// # Errors
/// Of reading it.
pub fn mounts() -> io::Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|b| *b == b'\n').filter_map(parse_mount).collect())
}

/// A FUSE filesystem, of whatever kind, through one of its mounts.
pub(super) struct FuseMount {
    /// Its number.
    pub(super) device: DeviceNumber,
    /// Who mounted it: whose process answers its requests.
    pub(super) owner: Uid,
}

/// What is known of a mount if it is one of a FUSE filesystem; `None` if it is of another kind.
///
/// # Errors
/// Of reading the list of mounts; `NotFound` where the mount is not on it.
pub(super) fn fuse_mount(id: u64) -> io::Result<Option<FuseMount>> {
    let text = fs::read("/proc/self/mountinfo")?;
    let mut lines = text.split(|b| *b == b'\n').filter_map(Line::parse);
    let line = lines.find(|line| line.id == id).ok_or(io::ErrorKind::NotFound)?;
    if !line.kind.starts_with(b"fuse") {
        return Ok(None);
    }
    let owner = line.owner().ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some(FuseMount { device: line.device, owner }))
}

/// A line of mountinfo, its fields as they are written there.
struct Line<'a> {
    id: u64,
    device: DeviceNumber,
    mountpoint: &'a [u8],
    /// Of the mount.
    flags: &'a [u8],
    kind: &'a [u8],
    source: &'a [u8],
    /// Of the filesystem.
    options: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let dash = fields.iter().position(|f| *f == b"-")?;
        let text = |field: usize| std::str::from_utf8(fields.get(field)?).ok();
        Some(Self {
            id: text(0)?.parse().ok()?,
            device: DeviceNumber::parse(text(2)?)?,
            mountpoint: fields.get(4)?,
            flags: fields.get(5)?,
            kind: fields.get(dash + 1)?,
            source: fields.get(dash + 2)?,
            options: fields.get(dash + 3)?,
        })
    }

    /// Who mounted a FUSE filesystem.
    fn owner(&self) -> Option<Uid> {
        let mut options = self.options.split(|b| *b == b',');
        let id = options.find_map(|option| option.strip_prefix(b"user_id="))?;
        std::str::from_utf8(id).ok()?.parse().ok().map(Uid::from_raw)
    }
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let line = Line::parse(line).filter(|line| line.kind == b"fuse.kmsfs")?;
    let words = || [line.flags, line.options].into_iter().flat_map(|of| of.split(|b| *b == b','));
    let flags = FLAGS.iter().filter(|(word, _)| words().any(|said| said == word.as_bytes()));
    Some(Mount {
        flags: flags.map(|(_, flag)| *flag).collect(),
        mountpoint: unescape(line.mountpoint),
        store: unescape(line.source),
        device: line.device,
        owner: line.owner()?,
    })
}

/// mountinfo writes blank, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&b, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| b == b'\\');
        let byte = octal.and_then(|o| u8::from_str_radix(std::str::from_utf8(o).ok()?, 8).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(b);
                rest = after;
            }
        }
    }
    OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_its_escapes() {
        let line = b"51 1 0:44 / /mnt/a\\040b\xff rw - fuse.kmsfs /st\\134ore rw,user_id=0";
        let mount = parse_mount(line).expect("a kmsfs mount");
        assert_eq!(mount.mountpoint, PathBuf::from(OsString::from_vec(b"/mnt/a b\xff".to_vec())));
        assert_eq!(mount.store, PathBuf::from("/st\\ore"));
        assert_eq!((mount.owner, mount.device.to_string()), (Uid::ROOT, "0:44".to_owned()));
        assert_eq!(mount.flags, MountFlags::empty());
        let line = b"51 1 0:44 / /m rw,nosuid,noatime shared:1 - fuse.kmsfs /s ro,user_id=7";
        let flags = parse_mount(line).expect("a kmsfs mount").flags;
        assert_eq!(flags, MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOATIME);
        assert!(parse_mount(b"51 1 0:44 / /x rw - ext4 /dev/vda rw").is_none());
    }
}
