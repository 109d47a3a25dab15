//! The capabilities of a root daemon.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};

use crate::disk::identity::filesystem_capabilities;

/// What a daemon of root's uses.
fn used() -> CapabilitySet {
    filesystem_capabilities()
        // In the name of its callers.
        | CapabilitySet::SETUID
        | CapabilitySet::SETGID
        // To mount, to unmount, and for attributes of `trusted.` and `security.`.
        | CapabilitySet::SYS_ADMIN
        | CapabilitySet::SETFCAP
        // Keys in locked memory; threads that leave SCHED_IDLE.
        | CapabilitySet::IPC_LOCK
        | CapabilitySet::SYS_NICE
}

/// Gives up, for good, the capabilities that a daemon does not use: CAP_SYS_RESOURCE among them,
/// with which no quota would hold. What it starts cannot have them either. To be called before
/// there is a second thread, for each has its own.
pub fn give_up_capabilities() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let kept = used();
    for bit in 0..CapabilitySet::all().bits().count_ones() {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !kept.contains(one)
            && capability_is_in_bounding_set(one).unwrap_or(false)
            && let Err(e) = remove_capability_from_bounding_set(one)
        {
            log::warn!("cannot drop capability {bit}: {e}");
        }
    }
    let given_up = rustix::thread::capabilities(None).and_then(|had| {
        let sets = CapabilitySets {
            effective: had.effective & kept,
            permitted: had.permitted & kept,
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, sets)
    });
    if let Err(e) = given_up {
        log::warn!("cannot drop capabilities: {e}");
    }
}
