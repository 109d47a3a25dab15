//! Other flags for a mount that is there, as `mount -o remount` asks for.

use std::path::Path;

use rustix::mount::MountFlags;

use super::helper::Rest;
use super::place;
use crate::console::failure::{Exit, Failure};
use crate::control::{self, Target};
use crate::fuse::changed_flags;

/// Gives a mount the flags that are said.
///
/// # Errors
/// [`Failure`]; where it was mounted read-only and is to be writable: its daemon has no keys made.
pub(super) fn run(at: &Path, words: &[String], rest: Rest) -> Result<(), Failure> {
    let at = place::as_mounted(at)?;
    let failed = |exit, why: &str| Failure::new(exit, format!("{}: {why}", at.display()));
    let mut known = control::mounts().map_err(|e| Failure::io(&at, &e))?.into_iter();
    let mount = known.rfind(|mount| mount.mountpoint == at);
    let mount = mount.ok_or_else(|| failed(Exit::NotMounted, "no kmsfs store is mounted here"))?;
    let present = mount.flags;
    let others = match rest {
        Rest::Stays => present,
        Rest::Off => MountFlags::empty(),
    };
    let mut flags = changed_flags(others, words)
        .map_err(|e| Failure::new(Exit::Usage, format!("mount.kmsfs: {e}")))?;
    if present.contains(MountFlags::NOATIME) && !flags.contains(MountFlags::NOATIME) {
        // Without a word on times of access the kernel leaves them as they are (mount(2)).
        flags |= MountFlags::RELATIME;
    }
    let reads_alone = Target::Here(mount).report().ok().flatten().is_some_and(|r| r.read_only);
    if reads_alone && !flags.contains(MountFlags::RDONLY) {
        let why = "it was mounted read-only, and has no keys for new data";
        return Err(failed(Exit::Failed, why).hint(format!(
            "unmount it and mount it again without ro: kmsfs unmount {}",
            at.display()
        )));
    }
    rustix::mount::mount_remount(&at, flags, "").map_err(|e| failed(Exit::Failed, &e.to_string()))
}
