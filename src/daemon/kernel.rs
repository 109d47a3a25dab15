//! What a lock needs of the kernel and of the operator.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fuser::{INodeNo, Notifier};

use super::Hook;
use super::manager::{self, Watchdog};
use crate::clock::Moment;
use crate::disk::{FileKind, device};
use crate::fs::{Node, Reading};
use crate::fuse::Shared;
use crate::keys::audit::AuditQueue;
use crate::keys::{Effects, LockTime, Phase};
use crate::kms::KmsError;
use crate::names::VolumeKeys;
use crate::threads::{self, Role};

/// The kernel's side of a lock.
pub(super) struct Kernel {
    pub(super) shared: Arc<Shared>,
    pub(super) notifier: Notifier,
    pub(super) mountpoint: PathBuf,
    pub(super) on_lock: Option<Arc<Hook>>,
    pub(super) audit_queue: Option<Arc<AuditQueue>>,
    pub(super) watchdog: Option<Watchdog>,
}

/// Measured upper bounds: of invalidating one inode with pages, and one without together with
/// its name.
const WITH_PAGES: Duration = Duration::from_micros(28);
const WITHOUT: Duration = Duration::from_micros(12);
/// Of saving dirty pages, in bytes a second: a lower bound.
const SAVED: u64 = 150 << 20;

impl Kernel {
    /// A folder that is in use when names are invalidated has lost its own: getcwd(2) of whoever
    /// stands in it is ENOENT, and of whoever stands below it, until somebody looks it up by its
    /// path. That is done here. A lock makes the kernel forget every folder that nobody uses, so
    /// those that are left are few.
    fn look_up_folders(&self) {
        let (shared, mountpoint) = (self.shared.clone(), self.mountpoint.clone());
        let started = threads::spawn(Role::Folders, move || {
            let fs = &shared.fs;
            let nodes = fs.table().all().into_iter();
            for folder in nodes.filter(|n| n.kind == FileKind::Dir) {
                let Some(path) = fs.path(folder.ino, Reading::Store) else { continue };
                let mut at = mountpoint.clone().into_os_string();
                at.push(OsStr::from_bytes(&path));
                // Removed meanwhile, or locked again: then there is no name to give back.
                let _ = std::fs::symlink_metadata(at);
            }
        });
        if let Err(e) = started {
            log::warn!("working directories are without a name until they are looked up: {e}");
        }
    }

    fn invalidate(&self, node: &Node) {
        // ENOENT: the kernel has forgotten it meanwhile.
        let _ = self.notifier.inval_inode(INodeNo(node.ino), 0, 0);
    }
}

/// Of an inode's attributes alone, so it waits for no page and may be called by a request.
pub(super) fn invalidate_attributes(notifier: &Notifier, ino: u64) {
    // ENOENT: the kernel has forgotten it meanwhile.
    let _ = notifier.inval_inode(INodeNo(ino), -1, 0);
}

impl Effects for Kernel {
    fn lock_time(&self) -> LockTime {
        let (nodes, paged) = self.shared.fs.table().counts();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // What other filesystems have dirty counts too: it is an upper bound.
        let dirty = Duration::from_secs_f64(device::dirty_bytes() as f64 / SAVED as f64);
        LockTime { drain: WITH_PAGES * count(paged) + dirty, seal: WITHOUT * count(nodes) }
    }

    fn drain(&self, deadline: Moment) {
        let mut nodes = self.shared.fs.table().all();
        nodes.retain(|n| n.paged.load(std::sync::atomic::Ordering::Relaxed));
        // Clean ones first: they cost no request. The key changes while files are opened and closed.
        nodes.sort_by_cached_key(|n| n.content.try_read().map_or(1, |c| c.writers));
        for node in nodes {
            if Moment::now() >= deadline {
                log::warn!(
                    "ran out of time while saving dirty pages; fsync(2) reports what was lost"
                );
                return;
            }
            self.invalidate(&node);
        }
    }

    fn hide(&self) {
        let nodes = self.shared.fs.table().all();
        nodes.iter().for_each(|n| invalidate_attributes(&self.notifier, n.ino));
    }

    fn seal(&self, names: &VolumeKeys) {
        let fs = &self.shared.fs;
        let nodes = fs.table().all();
        nodes.iter().for_each(|n| self.invalidate(n));
        for node in &nodes {
            for (parent, entry) in node.places() {
                let Ok(parent_node) = fs.node(parent) else { continue };
                if let Some(name) = fs.clear_name(names, &parent_node, &entry) {
                    let _ = self.notifier.inval_entry(INodeNo(parent), &name);
                }
            }
        }
    }

    fn announce(&self, phase: Phase, why: Option<&KmsError>) {
        let at = self.mountpoint.display();
        let because = why.map_or_else(String::new, |e| format!(": {e}"));
        let state = phase.word();
        if let Some(audit_queue) = &self.audit_queue {
            audit_queue.state(state, why);
        }
        manager::state(state, &because);
        match phase {
            Phase::Open => {
                log::warn!("{at}: open");
                self.look_up_folders();
            }
            Phase::Draining(_) => log::warn!("{at}: locking{because}"),
            Phase::Locked(_) => log::warn!("{at}: {state}{because}"),
        }
        if let Some(hook) = &self.on_lock
            && !matches!(phase, Phase::Draining(_))
        {
            hook.run(state);
        }
    }

    fn at_work(&self) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.feed(Moment::now());
        }
    }
}
