//! Requests that do not end where they began: parked, queued, and a piece at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use fuser::{Config, Filesystem, INodeNo, ReplyStatfs, Request, Session};
use rustix::mount::UnmountFlags;

use super::job::{Arrived, Simple, Start, go};
use super::replies::{fuse_errno, statfs};
use super::runner::MOST_PARKED;
use super::shared::Shared;
use crate::disk::device::{Device, Writeback};
use crate::disk::identity::Owners;
use crate::fs::Who;
use crate::fs::{Access, Errno, Fail, Fs, FsSettings, Outcome};
use crate::keys::fixture::{close, kms, opened, volume};
use crate::keys::{KeyRequest, Phase, Purpose, Reason};
use crate::metrics::{Failure, RequestKind};

fn statfs_now() -> Arrived {
    Arrived { kind: RequestKind::Statfs, at: Instant::now() }
}

const REVOKED: Result<u32, Errno> = Err(Errno(libc::EKEYREVOKED));

/// A filesystem with a runner of so many threads, which end with it.
struct Running(Arc<Shared>);

impl Running {
    fn with_threads(threads: usize) -> Self {
        let (store, keyring) = opened(&volume(), kms());
        let device = Device { writeback: Writeback::Stable, tearing: None };
        let access = Access::ReadWrite;
        let settings = FsSettings { access, owners: Owners::Daemon, directories: 8, handles: 64 };
        let fs = Fs::new(store, keyring, &device, settings).expect("a simulated disk");
        let shared = Shared::new(fs, None);
        shared.start(threads).expect("threads");
        Self(shared)
    }

    /// Runs an operation as a request of the program whose thread it is.
    fn run(
        &self,
        start: Start<'_>,
        op: impl FnMut(&Fs) -> Outcome<u32> + Send + 'static,
    ) -> Receiver<Result<u32, Errno>> {
        self.run_of(0, start, op)
    }

    /// Of this user's.
    fn run_of(
        &self,
        uid: u32,
        start: Start<'_>,
        op: impl FnMut(&Fs) -> Outcome<u32> + Send + 'static,
    ) -> Receiver<Result<u32, Errno>> {
        let (told, outcomes) = channel();
        let who = Who { uid, gid: 0, pid: 0 };
        let reply = move |outcome| told.send(outcome).expect("the test waits");
        let job = Simple { op, reply, purpose: Some(Purpose::Use), who, watch: None };
        if let Some(answered) = go(&self.0, job, statfs_now(), start) {
            answered.finish(|()| ());
        }
        outcomes
    }

    fn lock(&self) {
        close(self.0.fs.keyring(), Phase::Draining(Reason::Refused));
    }

    fn inside(&self) -> impl Fn() + Send + 'static {
        let shared = self.0.clone();
        move || close(shared.fs.keyring(), Phase::Draining(Reason::Refused))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn name_of_this_thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

/// Parked requests ran on whoever had their key: on the thread of the kill switch after a
/// suspend, which then neither beat nor locked.
#[test]
fn a_parked_request_runs_on_the_runner_and_not_on_who_has_its_key() {
    let running = Running::with_threads(1);
    let (told, ran_on) = channel();
    let mut parked = false;
    let outcome = running.run(Start::Here, move |_| {
        told.send(name_of_this_thread()).expect("the test waits");
        if std::mem::replace(&mut parked, true) {
            return Ok(7);
        }
        Err(Fail::Park(KeyRequest::Fresh))
    });
    assert_eq!(ran_on.recv().expect("it ran"), name_of_this_thread());
    running.0.fs.keyring().supply(KeyRequest::Fresh).expect("the keystore answers");
    assert_eq!(ran_on.recv().expect("it ran again"), "kmsfs-runner");
    assert_eq!(outcome.recv().expect("it ended"), Ok(7));
}

/// Whatever way a request takes to its reply.
#[test]
fn each_request_is_counted_once_and_failures_by_their_errno() {
    let running = Running::with_threads(1);
    let (told, parked) = channel();
    let mut outcomes =
        vec![Err(Fail::Errno(Errno(libc::ENOENT))), Err(Fail::Errno(Errno(libc::EBADMSG))), Ok(7)];
    for outcome in outcomes.drain(..) {
        let answer = running.run(Start::Here, move |_| outcome);
        answer.recv().expect("it ended").ok();
    }
    let mut pieces = 3;
    let in_pieces = running.run(Start::Here, move |_| {
        pieces -= 1;
        if pieces > 0 { Err(Fail::Unfinished) } else { Ok(7) }
    });
    assert_eq!(in_pieces.recv().expect("it ended"), Ok(7));
    let waits = running.run(Start::Here, move |_| {
        told.send(()).expect("the test waits");
        Err(Fail::Park(KeyRequest::Fresh))
    });
    parked.recv().expect("it ran");
    running.lock();
    assert_eq!(waits.recv().expect("it was refused"), REVOKED);
    // A reply is counted after it was sent.
    running.0.stop();
    let counted = &running.0.counted;
    let times: Vec<_> = counted.times().map(|(kind, times)| (kind, times.count())).collect();
    assert_eq!(times, [(RequestKind::Statfs, 5)]);
    let kind = RequestKind::Statfs;
    let failures: Vec<_> = counted.failures().collect();
    assert_eq!(failures, [(kind, Failure::NotAuthentic, 1), (kind, Failure::KeyRevoked, 1)]);
}

/// One user's requests filled all of the room: everybody else's were EKEYEXPIRED.
#[test]
fn no_users_requests_take_the_room_of_the_others() {
    let running = Running::with_threads(1);
    let park = |uid| running.run_of(uid, Start::Here, |_| Err(Fail::Park(KeyRequest::Fresh)));
    let full = Err(Errno(libc::EKEYEXPIRED));
    let mut parked = Vec::new();
    // One refusal is at once; what is parked answers later.
    let fill = |parked: &mut Vec<Receiver<_>>, uid| {
        let before = running.0.parked();
        loop {
            let outcome = park(uid);
            match outcome.try_recv() {
                Ok(refused) => {
                    assert_eq!(refused, full);
                    return running.0.parked() - before;
                }
                Err(_) => parked.push(outcome),
            }
        }
    };
    assert_eq!(fill(&mut parked, 1), MOST_PARKED / 4 * 3);
    let more: Vec<_> = (2..7).map(|uid| fill(&mut parked, uid)).collect();
    assert_eq!(more, [192, 48, 12, 3, 0]);
    assert!(running.0.parked() <= MOST_PARKED);
    running.lock();
    assert!(parked.iter().all(|outcome| outcome.recv() == Ok(REVOKED)));
    assert_eq!(running.0.parked(), 0);
    // Whoever had his share has room again; the gate is shut, so the errno is the lock's.
    assert_eq!(park(1).recv().expect("at once"), REVOKED);
}

#[test]
fn an_operation_in_pieces_goes_on_with_the_runner() {
    let running = Running::with_threads(2);
    let mut pieces = 0;
    let outcome = running.run(Start::Here, move |_| {
        pieces += 1;
        if pieces < 40 { Err(Fail::Unfinished) } else { Ok(pieces) }
    });
    assert_eq!(outcome.recv().expect("it ended"), Ok(40));
}

/// The gate is left between pieces: a lock need not wait for the whole operation, which ends with
/// the lock's errno.
#[test]
fn a_lock_ends_an_operation_between_its_pieces() {
    let running = Running::with_threads(1);
    let (pieces, lock) = (Arc::new(AtomicU32::new(0)), running.inside());
    let counted = pieces.clone();
    let outcome = running.run(Start::Here, move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == 2 {
            lock();
        }
        Err(Fail::Unfinished)
    });
    assert_eq!(outcome.recv().expect("it ended"), REVOKED);
    assert_eq!(pieces.load(Ordering::SeqCst), 3);
    running.0.fs.keyring().gate().wait_idle();
}

/// Every thread of the runner waits for a store that hangs; requests are parked and queued.
#[test]
fn the_errors_of_a_lock_do_not_wait_for_a_store_that_hangs() {
    let running = Running::with_threads(2);
    let pace = Arc::default();
    let (began, has_begun) = channel();
    let hang = |began: Sender<()>| {
        let (go_on, goes_on) = channel::<()>();
        let outcome = running.run(Start::Runner(&pace), move |_| {
            began.send(()).expect("the test waits");
            goes_on.recv().expect("the test says when");
            Ok(1)
        });
        (go_on, outcome)
    };
    let hanging = [hang(began.clone()), hang(began)];
    hanging.iter().for_each(|_| has_begun.recv().expect("each has a thread"));
    let queued: Vec<_> = (0..5).map(|_| running.run(Start::Runner(&pace), |_| Ok(2))).collect();
    let parked = running.run(Start::Here, |_| Err(Fail::Park(KeyRequest::Fresh)));
    running.lock();
    assert!(queued.iter().all(|outcome| outcome.recv() == Ok(REVOKED)));
    assert_eq!(parked.recv(), Ok(REVOKED));
    let late = running.run(Start::Runner(&pace), |_| Ok(3));
    assert_eq!(late.recv(), Ok(REVOKED), "asked for afterwards");
    for (go_on, outcome) in hanging {
        go_on.send(()).expect("it hangs");
        assert_eq!(outcome.recv(), Ok(Ok(1)), "it was inside before");
    }
}

/// A filesystem whose statfs has no end, and a piece of it every millisecond.
struct Endless {
    shared: Arc<Shared>,
    pieces: Sender<()>,
    outcome: Sender<Errno>,
    stop: Arc<AtomicBool>,
}

impl Filesystem for Endless {
    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (pieces, stop, outcome) =
            (self.pieces.clone(), self.stop.clone(), self.outcome.clone());
        let op = move |fs: &Fs| {
            let _ = pieces.send(());
            std::thread::sleep(Duration::from_millis(1));
            if stop.load(Ordering::Relaxed) { fs.statfs() } else { Err(Fail::Unfinished) }
        };
        let reply = move |answer| match answer {
            Ok(answer) => statfs(reply, answer),
            Err(e) => {
                reply.error(fuse_errno(e));
                let _ = outcome.send(e);
            }
        };
        let who = Who { uid: req.uid(), gid: req.gid(), pid: req.pid() };
        let job = Simple { op, reply, purpose: None, who, watch: None };
        if let Some(answered) = go(&self.shared, job, statfs_now(), Start::Here) {
            answered.finish(|()| ());
        }
    }
}

/// A mount that is detached however its test ends.
struct Detached<'a>(&'a Path);

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, UnmountFlags::DETACH);
    }
}

/// A program that waits for a long operation could not be killed, for the kernel waits until the
/// daemon has answered.
#[test]
fn a_killed_program_ends_and_its_operation_too() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: fuse (needs root and /dev/fuse)");
        return;
    }
    let running = Running::with_threads(1);
    let folder = tempfile::tempdir().expect("a folder");
    let (pieces, piece) = channel();
    let (outcome, outcomes) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let endless = Endless { shared: running.0.clone(), pieces, outcome, stop: stop.clone() };
    let session = Session::new(endless, folder.path(), &Config::default()).expect("mounted");
    let mounted = Detached(folder.path());
    let serving = std::thread::spawn(move || session.run());
    let mut program = std::process::Command::new("stat")
        .arg("-f")
        .arg(folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("stat(1) can be started");
    (0..3).for_each(|_| piece.recv().expect("its operation goes on"));
    program.kill().expect("it runs");
    let told = outcomes.recv_timeout(Duration::from_secs(20));
    stop.store(true, Ordering::Relaxed);
    assert_eq!(told, Ok(Errno(libc::EINTR)));
    let limit = Instant::now() + Duration::from_secs(20);
    while program.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < limit, "it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(mounted);
    let _ = serving.join().expect("it does not panic");
}
