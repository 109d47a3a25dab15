//! System calls that are refused with EPERM (seccomp(2)).
//!
//! A list of what is refused, not of what is allowed: the C library, the runtime of the AWS SDK,
//! the programs that it starts for credentials and PKCS#11 modules call what they like, and change
//! that with each release. keyctl(2) is left out for those programs, too.

use std::io;

use seccompiler::{SeccompAction, SeccompFilter};

/// Looks into other processes, changes the kernel or the machine, mounts, leaves the namespace.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
];

/// Whom a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// Every thread there is, and those that they start.
    All,
    /// The calling thread, and those that it starts.
    #[cfg(test)]
    This,
}

impl Threads {
    fn flags(self) -> libc::c_ulong {
        /// Before Linux 5.16 a filter slows memory down otherwise, against an attack by code of
        /// others within the process.
        const SPEC_ALLOW: libc::c_ulong = 1 << 2;
        match self {
            Self::All => libc::SECCOMP_FILTER_FLAG_TSYNC | SPEC_ALLOW,
            #[cfg(test)]
            Self::This => SPEC_ALLOW,
        }
    }
}

/// Refuses the calls.
///
/// # Errors
/// Where the kernel has no filters, or none is known for this kind of machine.
pub(super) fn refuse(threads: Threads) -> io::Result<()> {
    let rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).map_err(io::Error::other)?;
    let program = seccompiler::BpfProgram::try_from(filter).map_err(io::Error::other)?;
    rustix::thread::set_no_new_privs(true)?;
    install(&program, threads)
}

#[allow(unsafe_code)]
fn install(program: &[seccompiler::sock_filter], threads: Threads) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        // The kernel reads it alone; both types are the kernel's own.
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the program lives until the call returns, and the kernel copies it.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            threads.flags(),
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        // The thread that has another filter already.
        thread if thread > 0 => Err(io::Error::other(format!("thread {thread} has its own"))),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use rustix::mount::{MountFlags, mount};

    use super::*;

    #[test]
    fn what_no_daemon_needs_is_refused_and_the_rest_is_not() {
        let outcome = || mount("none", "/nowhere/at/all", "tmpfs", MountFlags::empty(), None);
        let in_a_thread = move || {
            let before = outcome();
            let installed = refuse(Threads::This).map_err(|e| e.to_string());
            let also_in_threads = std::thread::spawn(outcome).join().expect("no panic");
            let files = std::fs::read_to_string("/proc/self/status").map(|s| s.len() > 100);
            (before, installed, outcome(), also_in_threads, files.ok())
        };
        let (before, installed, after, also, files) =
            std::thread::spawn(in_a_thread).join().expect("no panic");
        let root = rustix::process::geteuid().is_root();
        assert!(before == Err(if root { Errno::NOENT } else { Errno::PERM }), "{before:?}");
        assert_eq!(installed, Ok(()));
        assert_eq!((after, also, files), (Err(Errno::PERM), Err(Errno::PERM), Some(true)));
    }
}
