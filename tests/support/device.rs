//! /dev/fuse for users who are not root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// fusermount3 needs /dev/fuse open to every user: where it is not, udev's usual mode is set for
/// as long as this lives, for one test at a time.
pub struct OpenDevice {
    before: fs::Permissions,
    _one: MutexGuard<'static, ()>,
}

const DEVICE: &str = "/dev/fuse";

impl OpenDevice {
    /// Opens it.
    pub fn new() -> Self {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fs::metadata(DEVICE).expect("there").permissions();
        fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666)).expect("changed");
        Self { before, _one: one }
    }
}

impl Drop for OpenDevice {
    fn drop(&mut self) {
        let _ = fs::set_permissions(DEVICE, self.before.clone());
    }
}
