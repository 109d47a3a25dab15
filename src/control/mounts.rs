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

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    if fields.get(dash + 1)? != b"fuse.kmsfs" {
        return None;
    }
    let options = std::str::from_utf8(fields.get(dash + 3)?).ok()?;
    let owner = options.split(',').find_map(|o| o.strip_prefix("user_id=")?.parse().ok())?;
    let own = std::str::from_utf8(fields.get(5)?).ok()?;
    let words = || own.split(',').chain(options.split(','));
    let flags = FLAGS.iter().filter(|(word, _)| words().any(|said| said == *word));
    Some(Mount {
        flags: flags.map(|(_, flag)| *flag).collect(),
        mountpoint: unescape(fields.get(4)?),
        store: unescape(fields.get(dash + 2)?),
        device: DeviceNumber::parse(std::str::from_utf8(fields.get(2)?).ok()?)?,
        owner: Uid::from_raw(owner),
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
