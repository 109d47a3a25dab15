//! The command line's end of the socket, and the list of mounts.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Uid;

use super::server::folders;
use super::{Answer, Ask, Report};

/// An answer may have to wait for calls of the KMS: three, each at most three seconds long.
const ANSWER: Duration = Duration::from_secs(15);

/// A kmsfs mount, as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub mountpoint: PathBuf,
    /// Its store.
    pub store: PathBuf,
    /// Who mounted it: whose process answers for it.
    pub owner: Uid,
}

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
    Some(Mount {
        mountpoint: unescape(fields.get(4)?),
        store: unescape(fields.get(dash + 2)?),
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

/// Asks the daemon of the mount at `mountpoint`; `None` where no daemon answers for it.
///
/// # Errors
/// Of the socket.
pub fn ask(mountpoint: &Path, question: Ask) -> io::Result<Option<Answer>> {
    let all = mounts()?;
    let mount = all.iter().rev().find(|m| m.mountpoint == mountpoint);
    let owner = mount.map_or_else(rustix::process::geteuid, |m| m.owner);
    let sockets = folders(owner).into_iter().filter_map(|f| fs::read_dir(f).ok());
    for socket in sockets.flat_map(Iterator::flatten).map(|e| e.path()) {
        if socket.extension().is_some_and(|e| e == "sock")
            && let Ok(Answer::Report(report)) = exchange(&socket, owner, Ask::Status)
            && same(&report, mountpoint)
        {
            return match question {
                Ask::Status => Ok(Some(Answer::Report(report))),
                other => exchange(&socket, owner, other).map(Some),
            };
        }
    }
    Ok(None)
}

fn same(report: &Report, mountpoint: &Path) -> bool {
    Path::new(&report.mountpoint) == mountpoint
}

/// Where root asks, a socket of another user's must not answer for a mount that is not his.
fn exchange(socket: &Path, owner: Uid, question: Ask) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    if rustix::net::sockopt::socket_peercred(&stream)?.uid != owner {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(ANSWER))?;
    let mut text = serde_json::to_vec(&question)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_with_its_escapes() {
        let line = b"51 1 0:44 / /mnt/a\\040b rw - fuse.kmsfs /st\\134ore rw,user_id=0";
        let mount = parse_mount(line).expect("a kmsfs mount");
        assert_eq!(mount.mountpoint, PathBuf::from("/mnt/a b"));
        assert_eq!(mount.store, PathBuf::from("/st\\ore"));
        assert_eq!(mount.owner, Uid::ROOT);
        assert!(parse_mount(b"51 1 0:44 / /x rw - ext4 /dev/vda rw").is_none());
    }
}
