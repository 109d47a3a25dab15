//! Whether a program that waits for a request was killed.
//!
//! Once a request is with the daemon, the kernel lets not even SIGKILL end the program's wait; it
//! would send FUSE_INTERRUPT, which fuser refuses. So whoever works for long looks for itself: a
//! signal that ends a program leaves SIGKILL pending in each of its threads (signal(7);
//! `complete_signal` in the kernel's signal.c).

/// Whether the thread of this number was killed. It is `false` where nothing is known of it: 0 is
/// a request of the kernel's own, or a program outside of the daemon's pid namespace.
pub(super) fn is_killed(thread: u32) -> bool {
    thread != 0
        && std::fs::read_to_string(format!("/proc/{thread}/status"))
            .is_ok_and(|status| has_sigkill(&status))
}

/// Whether SIGKILL is pending for the thread or its process (proc_pid_status(5)).
fn has_sigkill(status: &str) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let pending = |line: &str| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    status.lines().filter_map(pending).any(|mask| mask & SIGKILL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigkill_is_seen_among_pending_signals() {
        let status = |thread: &str, process: &str| {
            format!(
                "Name:\tcat\nSigQ:\t1/99\nSigPnd:\t{thread}\nShdPnd:\t{process}\nSigBlk:\t100\n"
            )
        };
        let (none, kill) = ("0000000000000000", "0000000000000100");
        assert!(!has_sigkill(&status(none, none)), "a blocked one is none");
        assert!(has_sigkill(&status(kill, none)));
        assert!(has_sigkill(&status(none, kill)));
        assert!(!has_sigkill(&status("0000000000004200", none)), "others are no SIGKILL");
    }

    #[test]
    fn who_is_not_known_was_not_killed() {
        assert!(!is_killed(0));
        assert!(!is_killed(u32::MAX));
        assert!(!is_killed(std::process::id()));
    }
}
