//! The thread that beats, steps the state machine and carries out what it says.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::cache::Expiry;
use super::effects::{Effects, LockTime};
use super::keyring::Keyring;
use super::machine::{Effect, Event, Machine, Timing};
use super::phase::{Phase, Reason};
use super::request::KeyRequest;
use super::shared_beats::{CLAIM, SharedBeats, Turn, Turns};
use super::status::{Beat, BeatOutcome, Status};
use super::store_use::StoreUse;
use super::volume::OpenError;
use super::{beat, fetch, follow, lines, pool};
use crate::clock::Moment;
use crate::kms::KmsError;
use crate::secret::scrub_stack;
use crate::threads::{Role, spawn};

/// What the monitor's loop is told.
pub(super) struct Message {
    pub(super) event: Event,
    /// What the KMS said, when it did not answer well.
    pub(super) error: Option<KmsError>,
    /// When the beat began that found this out; for anything else, the present.
    pub(super) began: Moment,
}

impl From<Event> for Message {
    fn from(event: Event) -> Self {
        Self { event, error: None, began: Moment::now() }
    }
}

/// A lock waits so long for those who are inside before it does what it can beside them.
const SOON: Duration = Duration::from_millis(100);
/// After so long who waits for another's beat looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often waiting requests are looked at.
const TICK: Duration = Duration::from_millis(100);
/// While locked, the beats that may open it come at least this often.
const LOCKED_BEAT: Duration = Duration::from_secs(1);
/// The running monitor.
pub struct Monitor {
    events: Sender<Message>,
    status: Arc<Mutex<Status>>,
    keyring: Arc<Keyring>,
    threads: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// Starts the keyring's threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        keyring: &Arc<Keyring>,
        effects: Arc<dyn Effects>,
        timing: Timing,
        shared: Option<SharedBeats>,
    ) -> std::io::Result<Self> {
        let (events, inbox) = channel();
        let status = Arc::new(Mutex::new(Status::open(Moment::now())));
        let mut threads = Vec::new();
        for _ in 0..fetch::threads(keyring) {
            threads.push(start(Role::Fetch, keyring, |k| fetch::run(&k))?);
        }
        if keyring.store_use() != StoreUse::Reads {
            threads.push(start(Role::Pool, keyring, |k| pool::run(&k))?);
            threads.push(start(Role::Lines, keyring, |k| lines::sweep_often(&k))?);
        }
        let work = Loop {
            keyring: keyring.clone(),
            effects,
            timing,
            turns: shared.map(Turns::new),
            machine: Machine::new(timing, Moment::now()),
            events: events.clone(),
            inbox,
            status: status.clone(),
            lockers: Vec::new(),
            sealed: false,
            last_error: None,
            gap: None,
        };
        threads.push(start(Role::Monitor, keyring, |_| work.run())?);
        Ok(Self { events, status, keyring: keyring.clone(), threads })
    }

    /// Locks as an operator does.
    pub fn lock(&self) {
        let _ = self.events.send(Event::Lock.into());
    }

    /// Takes an operator's lock back.
    pub fn unlock(&self) {
        let _ = self.events.send(Event::Unlock.into());
    }

    /// Where things stand.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    /// Ends the threads: parked requests are answered, unused and dead lines removed.
    pub fn stop(self) {
        self.keyring.stop();
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!("a thread of the keyring panicked");
            }
        }
        drop(self.keyring.wipe());
        if let Err(e) = self.keyring.last_sweep() {
            log::warn!("wrapped keys that no file uses are left in the store: {e}");
        }
    }
}

fn start(
    role: Role,
    keyring: &Arc<Keyring>,
    body: impl FnOnce(Arc<Keyring>) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let keyring = keyring.clone();
    spawn(role, move || body(keyring))
}

struct Loop {
    keyring: Arc<Keyring>,
    effects: Arc<dyn Effects>,
    timing: Timing,
    /// Whose turn it is to beat, where beats are shared.
    turns: Option<Turns>,
    machine: Machine,
    events: Sender<Message>,
    inbox: Receiver<Message>,
    status: Arc<Mutex<Status>>,
    lockers: Vec<JoinHandle<()>>,
    /// The last lock is complete.
    sealed: bool,
    last_error: Option<KmsError>,
    /// The process was stopped, or the machine slept; found out then. Only a beat that began
    /// after it vouches for the gate again.
    gap: Option<Moment>,
}

impl Loop {
    fn run(mut self) {
        let mut next = Moment::now() + self.interval();
        let mut last = Moment::now();
        while !self.keyring.is_stopping() {
            let now = Moment::now();
            let gap = now.since(last) > self.timing.heartbeat;
            last = now;
            if gap {
                self.gap = Some(now);
            }
            if self.gap.is_none() {
                self.keyring.gate().mark_fresh(now);
            }
            let asked = self.keyring.beats().take(now);
            if now >= next || asked || gap {
                let turn = if asked || gap { Turn::Ask } else { self.turn(now) };
                next = match turn {
                    Turn::Ask => {
                        let shared = self.turns.as_ref().map(Turns::beats);
                        beat::start(&self.keyring, self.events.clone(), shared);
                        now + self.interval()
                    }
                    Turn::Wait => now + LOOK_AGAIN,
                    Turn::Heard(began) => {
                        self.hear(began);
                        began + self.interval()
                    }
                };
            }
            if self.keyring.following().take_stale() {
                follow::drop_stale_keys(&self.keyring, &self.effects, self.timing.reserve());
            }
            let wait = next.since(now).min(TICK);
            match self.inbox.recv_timeout(wait) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => self.take(Event::Tick.into()),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.keyring.tick(Moment::now());
            self.effects.at_work();
        }
        self.join_lockers();
    }

    /// Waits for the threads of the last lock; what one that panicked was to do, the log says.
    fn join_lockers(&mut self) {
        for locker in self.lockers.drain(..) {
            if locker.join().is_err() {
                log::error!("a thread of the lock panicked");
            }
        }
    }

    /// Beats are a heartbeat apart, less the time that a lock would take, so that the promise
    /// holds with the lock included; at least a quarter of it is kept for that.
    fn interval(&self) -> Duration {
        let beat = self.timing.heartbeat;
        let LockTime { drain, seal } = self.effects.lock_time();
        let apart = beat.saturating_sub((drain + seal).max(self.timing.reserve()));
        // Whoever waits for another's beat is late by so much.
        let apart = apart.saturating_sub(if self.turns.is_some() { CLAIM } else { Duration::ZERO });
        let apart = apart.max(beat / 10);
        match self.machine.phase() {
            Phase::Open => apart,
            Phase::Draining(_) | Phase::Locked(_) => apart.min(LOCKED_BEAT),
        }
    }

    /// Whether a beat that is due is this mount's to make. While it is locked each is, and after one
    /// that was not good: what another was told does not undo what this mount was.
    fn turn(&mut self, now: Moment) -> Turn {
        let apart = self.interval();
        let (keyring, machine) = (&self.keyring, &self.machine);
        match &mut self.turns {
            Some(turns) if machine.phase() == Phase::Open && self.last_error.is_none() => {
                turns.take(|| beat::subject(keyring), (now, machine.last_good()), apart)
            }
            _ => Turn::Ask,
        }
    }

    /// Another mount's beat was good.
    fn hear(&mut self, began: Moment) {
        self.status.lock().heard += 1;
        self.keyring.set_expiry(Expiry::Strict);
        self.step(Event::Good { began }, began);
        beat::look_at_volume(&self.keyring);
    }

    fn take(&mut self, message: Message) {
        let Message { event, error, began } = message;
        if let Some(outcome) = BeatOutcome::of(event) {
            self.count(Beat { began, took: Moment::now().since(began), outcome }, error);
        }
        self.step(event, began);
    }

    /// What follows from an event; `began` is when the beat did that it came of.
    fn step(&mut self, event: Event, began: Moment) {
        let now = Moment::now();
        let effect = self.machine.step(event, now);
        match effect {
            Some(Effect::Drain { reason, until }) => self.drain(reason, until),
            Some(Effect::Seal(reason)) => self.seal(reason),
            Some(Effect::Open) => self.open(),
            None => {}
        }
        self.follow_reason();
        if BeatOutcome::of(event).is_some() {
            self.record_beat(began);
        }
        if event == Event::Sealed {
            self.sealed = true;
            self.effects.announce(self.keyring.gate().phase(), self.last_error.as_ref());
        }
        let mut status = self.status.lock();
        let phase = match self.keyring.gate().phase() {
            // Not locked before the last key and page are gone.
            Phase::Locked(reason) if !self.sealed => Phase::Draining(reason),
            phase => phase,
        };
        status.set_phase(phase, now);
        status.last_good = now.since(self.machine.last_good());
    }

    /// A lock whose reason changed answers with the errno of what is true now.
    fn follow_reason(&self) {
        if let (Phase::Locked(new), Phase::Locked(old)) =
            (self.machine.phase(), self.keyring.gate().phase())
            && new != old
        {
            self.keyring.gate().set(Phase::Locked(new));
            if self.sealed {
                self.effects.announce(Phase::Locked(new), self.last_error.as_ref());
            }
        }
    }

    fn count(&mut self, beat: Beat, error: Option<KmsError>) {
        let mut status = self.status.lock();
        status.add(beat);
        self.keyring.set_expiry(match beat.outcome {
            BeatOutcome::Good | BeatOutcome::Refused => Expiry::Strict,
            BeatOutcome::Unavailable => Expiry::Outage,
        });
        if let Some(e) = &error {
            status.last_error = Some(e.to_string());
        }
        self.last_error = error;
    }

    /// A beat has said how things stand, and the gate is as it says.
    fn record_beat(&mut self, began: Moment) {
        self.gap = self.gap.filter(|found| began < *found);
        self.keyring.gate().mark_fresh(began);
        self.keyring.files().answer(KeyRequest::Beat, Ok(()));
    }

    fn drain(&mut self, reason: Reason, until: Moment) {
        self.sealed = false;
        self.keyring.close(Phase::Draining(reason));
        self.effects.announce(Phase::Draining(reason), self.last_error.as_ref());
        let (effects, events) = (self.effects.clone(), self.events.clone());
        let deadline = until.before(effects.lock_time().seal).max(Moment::now());
        self.machine.drain_until(deadline);
        // A thread of its own: a notifier call waits for the kernel, which waits for workers.
        let drain = move |_| {
            effects.drain(deadline);
            let _ = events.send(Event::Drained.into());
        };
        match start(Role::Drain, &self.keyring, drain) {
            Ok(thread) => self.lockers.push(thread),
            Err(e) => {
                log::error!(
                    "cannot start a thread to save dirty pages, locking without saving them: {e}"
                );
                let _ = self.events.send(Event::Drained.into());
            }
        }
    }

    /// The drain may still wait for the kernel: with the gate closed, each page that it has the
    /// kernel save is refused at once.
    fn seal(&mut self, reason: Reason) {
        self.keyring.close(Phase::Locked(reason));
        let (effects, keyring) = (self.effects.clone(), self.keyring.clone());
        let events = self.events.clone();
        let seal = move |_| {
            if !keyring.gate().wait_idle_for(SOON) {
                effects.hide();
                keyring.gate().wait_idle();
            }
            if let Some(names) = keyring.wipe() {
                effects.seal(&names);
            }
            let _ = events.send(Event::Sealed.into());
        };
        match start(Role::Seal, &self.keyring, seal) {
            Ok(thread) => self.lockers.push(thread),
            Err(e) => log::error!("cannot start a thread to finish the lock: {e}"),
        }
    }

    fn open(&mut self) {
        self.join_lockers();
        let began = Moment::now();
        let unlocked =
            self.keyring.volume().unlock(self.keyring.store(), self.keyring.beat_service());
        scrub_stack();
        match unlocked {
            Ok(names) => {
                self.keyring.tell_generation();
                self.keyring.reopen(names, began);
                self.effects.announce(Phase::Open, None);
            }
            Err(e) => {
                log::error!("the mount stays locked: {e}");
                let event = match &e {
                    OpenError::Kms(e) if e.verdict.is_inconclusive() => {
                        Event::of_inconclusive(e.verdict)
                    }
                    _ => Event::Refused,
                };
                self.machine.stay_locked();
                let _ = self.events.send(event.into());
            }
        }
    }
}
