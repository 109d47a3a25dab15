//! The scheduling policy of a lane's thread.
//!
//! A reply wakes the program that waits for it. While another core is idle, the scheduler moves
//! the program there, although the thread that woke it sleeps a moment later; the program's next
//! request then wakes the other core's thread, and so on: each round trip pays for waking a
//! core. A core that runs nothing but a thread under SCHED_IDLE counts as idle itself (sched(7);
//! `sched_idle_cpu` in the kernel's fair.c), and the program stays. So a lane's thread has that
//! policy while there are idle cores. Where there are none it would get next to no time beside
//! programs, and nobody would be moved anyway: then its policy is the ordinary one.
//!
//! Under SCHED_IDLE a thread whose I/O priority nobody set would be in the idle class on a disk
//! too, and disk schedulers would have each of its reads wait for the others' (ioprio_set(2)). So
//! such a thread gets its ordinary priority set.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::threads::{Role, spawn};

/// How often a busy thread looks at the machine. The kernel counts idle time in hundredths of a
/// second.
const EVERY: Duration = Duration::from_millis(50);
/// From so many idle cores on, on average.
const IDLE_CORES: f64 = 0.5;

/// SCHED_OTHER or SCHED_IDLE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Ordinary,
    Idle,
}

impl Policy {
    fn number(self) -> libc::c_int {
        match self {
            Self::Ordinary => libc::SCHED_OTHER,
            Self::Idle => libc::SCHED_IDLE,
        }
    }

    /// Whether this thread has it.
    #[allow(unsafe_code)]
    fn is_had(self) -> bool {
        // SAFETY: it takes a number, and 0 is the calling thread.
        (unsafe { libc::sched_getscheduler(0) }) == self.number()
    }

    /// Gives it to this thread; `false` where that is not allowed.
    #[allow(unsafe_code)]
    fn take(self) -> bool {
        let none = libc::sched_param { sched_priority: 0 };
        // SAFETY: the structure outlives the call, and 0 is the calling thread.
        (unsafe { libc::sched_setscheduler(0, self.number(), &raw const none) }) == 0
    }
}

/// What a thread under the ordinary policy has on a disk while no I/O priority is set: class "best
/// effort", at the level that its nice value gives (linux/ioprio.h).
fn ordinary_io_priority() -> libc::c_long {
    const BEST_EFFORT: libc::c_long = 2 << 13;
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    BEST_EFFORT | libc::c_long::from((nice + 20) / 5)
}

/// `ioprio_get` and `ioprio_set` of this thread (ioprio_set(2)).
#[allow(unsafe_code)]
fn io_priority(call: libc::c_long, priority: libc::c_long) -> libc::c_long {
    const WHO_PROCESS: libc::c_long = 1;
    const THIS_THREAD: libc::c_long = 0;
    // SAFETY: both calls take numbers alone.
    unsafe { libc::syscall(call, WHO_PROCESS, THIS_THREAD, priority) }
}

/// Sets the ordinary I/O priority for this thread where none is set; `false` where that fails.
fn keep_io_priority() -> bool {
    match io_priority(libc::SYS_ioprio_get, 0) {
        0 => io_priority(libc::SYS_ioprio_set, ordinary_io_priority()) == 0,
        set => set > 0,
    }
}

/// Seconds since boot, and seconds that cores were idle, all together (proc_uptime(5)).
fn parse(uptime: &str) -> Option<(f64, f64)> {
    let (up, idle) = uptime.trim().split_once(' ')?;
    Some((up.parse().ok()?, idle.parse().ok()?))
}

/// Threads may change their policy, and change it back.
#[derive(Clone, Copy)]
pub(super) struct Permit(());

impl Permit {
    /// `None` where the daemon has another policy than the ordinary one, as whoever started it
    /// wished, or its threads may not leave SCHED_IDLE again (that takes CAP_SYS_NICE).
    pub(super) fn ask() -> Option<Self> {
        if !Policy::Ordinary.is_had() {
            return None;
        }
        // A thread of its own tries it: it may not come back.
        let comes_back = || Policy::Idle.take() && Policy::Ordinary.take();
        let tried = spawn(Role::PolicyTrial, comes_back).ok()?.join();
        tried.is_ok_and(|back| back).then_some(Self(()))
    }
}

/// Chooses this thread's policy. It knows what the machine did lately, and not what it will do.
pub(super) struct Chooser {
    uptime: File,
    looked: Instant,
    last: (f64, f64),
    policy: Policy,
}

impl Chooser {
    /// For this thread; `None` where the machine does not say how idle it is, or disks would
    /// take the policy for a priority.
    pub(super) fn new(_: Permit) -> Option<Self> {
        keep_io_priority().then_some(())?;
        let uptime = File::open("/proc/uptime").ok()?;
        let last = read(&uptime)?;
        Some(Self { uptime, looked: Instant::now(), last, policy: Policy::Ordinary })
    }

    /// To be called with every request, at `now`: looks at the machine now and then.
    pub(super) fn look(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked) < EVERY {
            return;
        }
        self.looked = now;
        let Some(uptime) = read(&self.uptime) else { return };
        let wanted = choose(self.last, uptime);
        self.last = uptime;
        if wanted != self.policy && wanted.take() {
            self.policy = wanted;
        }
    }
}

fn read(uptime: &File) -> Option<(f64, f64)> {
    let mut text = [0; 64];
    let n = uptime.read_at(&mut text, 0).ok()?;
    parse(std::str::from_utf8(&text[..n]).ok()?)
}

fn choose(before: (f64, f64), now: (f64, f64)) -> Policy {
    let idle_cores = (now.1 - before.1) / (now.0 - before.0);
    if idle_cores >= IDLE_CORES { Policy::Idle } else { Policy::Ordinary }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_cores_are_told_from_busy_ones() {
        let before = parse("350735.47 234388.90\n").expect("as proc_uptime(5) has it");
        let after = |busy: f64| (before.0 + 0.05, before.1 + 2.0 * 0.05 - busy);
        assert_eq!(choose(before, after(0.05)), Policy::Idle, "one of two");
        assert_eq!(choose(before, after(0.09)), Policy::Ordinary, "nearly none");
        assert_eq!(choose(before, before), Policy::Ordinary, "no time has passed");
        assert_eq!(parse("soon"), None);
    }

    /// Under SCHED_IDLE alone, a lane's cold reads on a disk took 240 µs instead of 60: the disk's
    /// scheduler had taken them for those of the idle class.
    #[test]
    fn the_idle_policy_is_no_idle_priority_on_a_disk() {
        let in_a_thread = |set: libc::c_long| {
            let run = move || {
                assert_eq!(io_priority(libc::SYS_ioprio_set, set), 0);
                assert!(Permit::ask().and_then(Chooser::new).is_some() || !is_root());
                io_priority(libc::SYS_ioprio_get, 0)
            };
            std::thread::spawn(run).join().expect("no failure")
        };
        if is_root() {
            assert_eq!(in_a_thread(0), ordinary_io_priority());
        }
        let asked_for = 2 << 13 | 7;
        assert_eq!(in_a_thread(asked_for), asked_for, "as whoever started it wished");
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn root_may_leave_the_idle_policy_again() {
        std::thread::spawn(|| {
            if let Some(mut chooser) = Permit::ask().and_then(Chooser::new) {
                assert!(Policy::Idle.take() && Policy::Idle.is_had());
                chooser.policy = Policy::Idle;
                chooser.looked -= EVERY;
                chooser.last = (chooser.last.0 - 1.0, chooser.last.1);
                chooser.look(Instant::now());
                assert!(Policy::Ordinary.is_had(), "no core was idle in that second");
            } else {
                assert!(!is_root());
            }
        })
        .join()
        .expect("no failure");
    }
}
