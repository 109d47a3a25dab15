//! The gate and the keyring under a scheduler that tries orders of threads; one in which all
//! threads wait is a deadlock, and fails.
//!
//! `cargo test --locked --features shuttle --lib interleavings`

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shuttle::thread;

use super::fixture::{branch_volume, keyring, keyring_over, kms};
use super::{
    Answer, Gate, KeyCounts, KeyFail, KeyRequest, Keyring, Phase, Purpose, Reason, Ticket,
};
use super::{fetch, pool};
use crate::ids::FileId;
use crate::kms::{Context, Generated, KeyRef, KeyService, KmsError, Rewrapped, Unwrapped, Wrapped};
use crate::secret::Key;
use crate::sync::{Condvar, Mutex, check_orders};

const LOCKED: Phase = Phase::Locked(Reason::Refused);

/// A KMS in whose calls others get on.
#[derive(Default)]
struct Slow(Mutex<HashMap<Context, Calls>>);

/// The calls for one file's key.
#[derive(Default)]
struct Calls {
    going_on: bool,
    done: usize,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::default()
    }
}

impl KeyService for Slow {
    fn generate(&self, key: &KeyRef, context: &Context) -> Result<Generated, KmsError> {
        thread::yield_now();
        kms().generate(key, context)
    }

    fn decrypt(
        &self,
        key: &KeyRef,
        wrapped: &Wrapped,
        context: &Context,
    ) -> Result<Unwrapped, KmsError> {
        let calls = |change: &dyn Fn(&mut Calls)| {
            change(self.0.lock().entry(context.clone()).or_default());
        };
        calls(&|c| assert!(!std::mem::replace(&mut c.going_on, true), "two fetches of one key"));
        thread::yield_now();
        let done = kms().decrypt(key, wrapped, context);
        calls(&|c| c.going_on = false);
        calls(&|c| c.done += 1);
        done
    }

    fn reencrypt(
        &self,
        wrapped: &Wrapped,
        from: (&KeyRef, &Context),
        to: (&KeyRef, &Context),
    ) -> Result<Rewrapped, KmsError> {
        kms().reencrypt(wrapped, from, to)
    }

    fn encrypt(&self, to: &KeyRef, plain: &Key, context: &Context) -> Result<Rewrapped, KmsError> {
        kms().encrypt(to, plain, context)
    }
}

/// The file of a key from the pool, which is cached no more.
fn a_file(keyring: &Keyring) -> FileId {
    keyring.supply(KeyRequest::Fresh).expect("the keystore answers");
    let file = keyring.fresh().expect("the pool was filled").file();
    keyring.evict(file);
    file
}

/// Gives answers to the threads that wait for them, as a runner gives them to requests.
struct Desk {
    keyring: Arc<Keyring>,
    given: Arc<Given>,
    thread: thread::JoinHandle<()>,
}

#[derive(Default)]
struct Given {
    outcomes: Mutex<HashMap<Ticket, Result<(), KeyFail>>>,
    more: Condvar,
}

impl Desk {
    fn open(keyring: &Arc<Keyring>) -> Arc<Self> {
        let (given, answers) = (Arc::<Given>::default(), keyring.answers().clone());
        let to = given.clone();
        let thread = thread::spawn(move || {
            while let Some(answer) = answers.next() {
                let Answer::Outcome(ticket, outcome) = answer else { continue };
                let twice = to.outcomes.lock().insert(ticket, outcome);
                assert_eq!(twice, None, "each is answered once");
                to.more.notify_all();
            }
        });
        Arc::new(Self { keyring: keyring.clone(), given, thread })
    }

    /// Waits for a key as a parked request does.
    fn wait(&self, want: KeyRequest) -> Result<(), KeyFail> {
        let ticket = self.keyring.answers().ticket();
        self.keyring.wait_for(want, ticket);
        let mut outcomes = self.given.outcomes.lock();
        loop {
            if let Some(outcome) = outcomes.get(&ticket) {
                return *outcome;
            }
            self.given.more.wait(&mut outcomes);
        }
    }

    fn close(self: Arc<Self>) {
        let desk = Arc::into_inner(self).expect("those who waited have ended");
        desk.keyring.answers().close();
        desk.thread.join().expect("it does not panic");
    }
}

#[test]
fn nobody_is_inside_a_gate_that_is_locked_and_idle() {
    check_orders(5000, || {
        let gate = Arc::new(Gate::new(Duration::MAX));
        let wiped = Arc::new(AtomicBool::new(false));
        let users: Vec<_> = [Purpose::Use, Purpose::Use, Purpose::Save]
            .into_iter()
            .map(|purpose| {
                let (gate, wiped) = (gate.clone(), wiped.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let Ok(_pass) = gate.enter(purpose) else { continue };
                        assert!(!wiped.load(Ordering::SeqCst), "let in after the wipe");
                        thread::yield_now();
                        assert!(!wiped.load(Ordering::SeqCst), "wiped under a user's hands");
                    }
                })
            })
            .collect();
        gate.set(Phase::Draining(Reason::Refused));
        gate.set(LOCKED);
        gate.wait_idle();
        wiped.store(true, Ordering::SeqCst);
        assert!(gate.enter(Purpose::Use).is_err() && gate.enter(Purpose::Save).is_err());
        users.into_iter().for_each(|user| user.join().expect("it does not panic"));
    });
}

#[test]
fn many_waiters_have_one_fetch_and_all_are_woken() {
    check_orders(2000, || {
        let slow = Slow::new();
        let keyring = keyring(slow.clone());
        let (file, desk) = (a_file(&keyring), Desk::open(&keyring));
        let fetchers: Vec<_> = (0..2)
            .map(|_| {
                let keyring = keyring.clone();
                thread::spawn(move || fetch::run(&keyring))
            })
            .collect();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let (keyring, desk) = (keyring.clone(), desk.clone());
                thread::spawn(move || {
                    if keyring.cipher(file).is_err() {
                        assert_eq!(desk.wait(KeyRequest::File(file)), Ok(()));
                    }
                    assert!(keyring.cipher(file).is_ok());
                })
            })
            .collect();
        waiters.into_iter().for_each(|waiter| waiter.join().expect("it does not panic"));
        desk.close();
        keyring.stop();
        fetchers.into_iter().for_each(|fetcher| fetcher.join().expect("it does not panic"));
        let calls = slow.0.lock();
        let context = Context::file(keyring.volume().id(), file);
        assert!(calls.get(&context).is_some_and(|c| (1..=3).contains(&c.done)));
    });
}

/// Files of one branch key are wanted at once, by fetch threads and by a job that fetches on its
/// own thread: one call at a time for the branch key (the KMS here says so), and all are answered.
#[test]
fn files_of_one_branch_key_share_its_call() {
    check_orders(1000, || {
        let disk = branch_volume();
        let files: Vec<_> = {
            let keyring = keyring_over(&disk, kms());
            (0..4).map(|_| a_file(&keyring)).collect()
        };
        let slow = Slow::new();
        let keyring = keyring_over(&disk, slow.clone());
        let desk = Desk::open(&keyring);
        let fetchers: Vec<_> = (0..2)
            .map(|_| {
                let keyring = keyring.clone();
                thread::spawn(move || fetch::run(&keyring))
            })
            .collect();
        let waiters: Vec<_> = files
            .into_iter()
            .enumerate()
            .map(|(n, file)| {
                let (keyring, desk) = (keyring.clone(), desk.clone());
                thread::spawn(move || {
                    let outcome = match n {
                        0 => keyring.supply(KeyRequest::File(file)),
                        _ => desk.wait(KeyRequest::File(file)),
                    };
                    assert_eq!(outcome, Ok(()));
                    assert!(keyring.cipher(file).is_ok());
                })
            })
            .collect();
        waiters.into_iter().for_each(|waiter| waiter.join().expect("it does not panic"));
        desk.close();
        keyring.stop();
        fetchers.into_iter().for_each(|fetcher| fetcher.join().expect("it does not panic"));
        let calls = slow.0.lock();
        assert_eq!(calls.values().map(|c| c.done).sum::<usize>(), 1);
    });
}

/// The order that this found in the field: the pool is filled between a look and a registration.
#[test]
fn every_writer_gets_a_fresh_key() {
    check_orders(2000, || {
        let keyring = keyring(Slow::new());
        let filler = {
            let keyring = keyring.clone();
            thread::spawn(move || pool::run(&keyring))
        };
        let desk = Desk::open(&keyring);
        let writers: Vec<_> = (0..3)
            .map(|_| {
                let (keyring, desk) = (keyring.clone(), desk.clone());
                thread::spawn(move || {
                    loop {
                        match keyring.fresh() {
                            Ok(cipher) => return cipher.file(),
                            Err(KeyFail::NotCached(want)) => {
                                assert_eq!(desk.wait(want), Ok(()));
                            }
                            Err(e) => panic!("{e}"),
                        }
                    }
                })
            })
            .collect();
        let mut files: Vec<_> =
            writers.into_iter().map(|w| w.join().expect("it does not panic").0).collect();
        files.sort_unstable();
        files.dedup();
        assert_eq!(files.len(), 3, "each its own");
        desk.close();
        keyring.stop();
        filler.join().expect("it does not panic");
    });
}

/// A lock comes while keys are fetched, made, taken and forgotten.
#[test]
fn a_locked_keyring_holds_no_key() {
    check_orders(2000, || {
        let keyring = keyring(Slow::new());
        locks(&keyring, a_file(&keyring));
    });
    check_orders(2000, || {
        let disk = branch_volume();
        let file = a_file(&keyring_over(&disk, kms()));
        locks(&keyring_over(&disk, Slow::new()), file);
    });
}

fn locks(keyring: &Arc<Keyring>, file: FileId) {
    let act = |act: fn(&Keyring, FileId)| {
        let keyring = keyring.clone();
        thread::spawn(move || act(&keyring, file))
    };
    let threads = [
        act(|keyring, file| {
            let _ = keyring.supply(KeyRequest::File(file));
        }),
        act(|keyring, _| {
            let _ = keyring.supply(KeyRequest::Fresh);
        }),
        act(|keyring, file| {
            let Ok(_pass) = keyring.enter(Purpose::Use) else { return };
            keyring.hold(file);
            let _ = keyring.fresh();
            keyring.evict(file);
            keyring.release(file);
        }),
    ];
    let gate = keyring.gate();
    keyring.close(Phase::Draining(Reason::Refused));
    keyring.close(LOCKED);
    gate.wait_idle();
    keyring.wipe();
    let KeyCounts { cached, pooled, .. } = keyring.counts();
    assert_eq!((cached, pooled, keyring.branches().len()), (0, 0, 0), "wiped");
    threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    let KeyCounts { cached, pooled, .. } = keyring.counts();
    let branches = keyring.branches().len();
    assert_eq!((cached, pooled, branches), (0, 0, 0), "and what came later was not taken in");
    assert!(keyring.cipher(file).is_err() && keyring.names().is_err());
    let closed = Err(KeyFail::Closed(Reason::Refused));
    let ticket = keyring.answers().ticket();
    keyring.wait_for(KeyRequest::File(file), ticket);
    let answer = keyring.answers().take().pop();
    assert_eq!(answer, Some(Answer::Outcome(ticket, closed)), "nobody waits while it is locked");
}

/// Who registered before the gate closed is answered by the lock, who comes later at once.
#[test]
fn a_lock_answers_everyone_who_waits() {
    check_orders(1000, || {
        let keyring = keyring(Slow::new());
        let desk = Desk::open(&keyring);
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let desk = desk.clone();
                thread::spawn(move || desk.wait(KeyRequest::Fresh))
            })
            .collect();
        keyring.close(Phase::Draining(Reason::Refused));
        for waiter in waiters {
            let told = waiter.join().expect("it does not panic");
            assert_eq!(told, Err(KeyFail::Closed(Reason::Refused)));
        }
        desk.close();
    });
}
