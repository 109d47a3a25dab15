//! The runner: a queue of requests that do not run where they came from, and its threads.
//!
//! It runs what was parked, when its key has come; what is long, a piece at a time; and over
//! io_uring what may take long, so that no core's queue stands still. Keys come from threads that
//! only add to a queue ([`Answers`]); no request ever runs on one of those.
//!
//! Who waits for whom:
//!
//! - A thread of a ring (a lane's, a bulk worker's) commits its replies itself. It waits for the
//!   store, for the embedded keystore's folder and for the locks of `fs`, and for no thread of
//!   ours.
//! - A thread that runs tasks waits for the same, and where a reply goes through a lane, for that
//!   lane's thread. Waiting takes a [`RunnerThread`], which nothing but this module can make; and
//!   it holds no lock of `fs` then, for an operation has returned before its reply is sent.
//! - The thread that takes answers refuses tasks and queues them. It never runs an operation and
//!   waits for nobody: a refusal has no payload, and is posted without waiting. So the errors of
//!   a lock are answered while every other thread is held up by the store.
//! - A lock waits for those inside of the gate, which are the first two; neither waits for it.
//!
//! So tasks wait for lanes, lanes wait for nobody, and there is no cycle.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::pace::Pace;
use crate::fs::{Errno, Fail, is_fair_share};
use crate::keys::{Answer, Answers, Gate, Purpose, Ticket};
use crate::sync::{Condvar, Mutex};
use crate::threads::{self, Role};

/// Parked requests, at most.
pub(super) const MOST_PARKED: usize = 1024;
/// Their data, at most.
const MOST_BYTES: usize = 64 << 20;

/// Proof of being a thread that runs tasks, which may wait for the thread of a lane.
pub(super) struct RunnerThread(());

#[cfg(test)]
impl RunnerThread {
    /// For a thread that is none.
    pub(super) fn for_test() -> Self {
        Self(())
    }
}

/// A request in an owned form.
pub(super) trait Task: Send {
    /// What it wants of the gate; `None` for what is served in every state.
    fn purpose(&self) -> Option<Purpose>;
    /// Whose request it is.
    fn user(&self) -> u32;
    /// How many bytes it keeps while it is parked.
    fn weight(&self) -> usize;
    /// Runs it, or a piece of it, and replies.
    fn run(self: Box<Self>, thread: &RunnerThread);
    /// Replies with an errno. It neither blocks nor touches the store, whatever thread calls it.
    fn refuse(self: Box<Self>, errno: Errno);
}

/// A task, and where the time that it takes is noted.
struct Queued {
    task: Box<dyn Task>,
    pace: Option<Arc<Pace>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Queued>,
    closed: bool,
}

struct Parked {
    task: Box<dyn Task>,
    user: u32,
    weight: usize,
}

/// What is parked: of all, or of one user.
#[derive(Clone, Copy, Default)]
struct Load {
    tasks: usize,
    bytes: usize,
}

impl Load {
    fn add(&mut self, weight: usize) {
        self.tasks += 1;
        self.bytes += weight;
    }

    fn remove(&mut self, weight: usize) {
        self.tasks -= 1;
        self.bytes -= weight;
    }
}

#[derive(Default)]
struct Parking {
    tasks: HashMap<Ticket, Parked>,
    all: Load,
    users: HashMap<u32, Load>,
}

impl Parking {
    /// Whether there is room for one more of this user's.
    fn admits(&self, user: u32, weight: usize) -> bool {
        let (mut all, mut own) = (self.all, self.users.get(&user).copied().unwrap_or_default());
        all.add(weight);
        own.add(weight);
        is_fair_share(own.tasks, all.tasks, MOST_PARKED)
            && is_fair_share(own.bytes, all.bytes, MOST_BYTES)
    }

    fn add(&mut self, ticket: Ticket, parked: Parked) {
        self.all.add(parked.weight);
        self.users.entry(parked.user).or_default().add(parked.weight);
        self.tasks.insert(ticket, parked);
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Box<dyn Task>> {
        let Parked { task, user, weight } = self.tasks.remove(&ticket)?;
        self.all.remove(weight);
        if let Entry::Occupied(mut own) = self.users.entry(user) {
            own.get_mut().remove(weight);
            if own.get().tasks == 0 {
                own.remove();
            }
        }
        Some(task)
    }
}

/// The queue, what is parked, and the threads; see above.
pub(super) struct Runner {
    gate: Arc<Gate>,
    answers: Arc<Answers>,
    queue: Mutex<Queue>,
    added: Condvar,
    parking: Mutex<Parking>,
    threads: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Runner {
    /// A runner without threads, for requests that pass this gate.
    pub(super) fn new(gate: Arc<Gate>, answers: Arc<Answers>) -> Self {
        Self {
            gate,
            answers,
            queue: Mutex::default(),
            added: Condvar::new(),
            parking: Mutex::default(),
            threads: parking_lot::Mutex::default(),
        }
    }

    /// Starts so many threads that run tasks, and the one that takes answers.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn start(self: &Arc<Self>, count: usize) -> io::Result<()> {
        let start = |role, work: fn(&Self)| {
            let runner = self.clone();
            let thread = threads::spawn(role, move || work(&runner))?;
            self.threads.lock().push(thread);
            io::Result::Ok(())
        };
        start(Role::Answers, Self::take_answers)?;
        (0..count).try_for_each(|_| start(Role::Runner, Self::run_tasks))
    }

    /// Ends the threads, and refuses what is left.
    pub(super) fn stop(&self) {
        self.answers.close();
        self.queue.lock().closed = true;
        self.added.notify_all();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                log::error!("a thread that runs requests panicked");
            }
        }
        let parked = std::mem::take(&mut *self.parking.lock()).tasks;
        parked.into_values().for_each(|parked| parked.task.refuse(Errno(libc::EIO)));
        let queued = std::mem::take(&mut self.queue.lock().waiting);
        queued.into_iter().for_each(|queued| queued.task.refuse(Errno(libc::EIO)));
    }

    /// Has a thread of the runner run a task, or refuses it where the gate would.
    pub(super) fn push(&self, task: Box<dyn Task>, pace: Option<Arc<Pace>>) {
        let mut queue = self.queue.lock();
        // Looked at under the lock: whoever closes the gate looks through the queue afterwards.
        let reason = task.purpose().and_then(|purpose| self.gate.refuses(purpose));
        let refused = reason.map(Errno::from).or(queue.closed.then_some(Errno(libc::EIO)));
        match refused {
            Some(errno) => {
                drop(queue);
                task.refuse(errno);
            }
            None => {
                queue.waiting.push_back(Queued { task, pace });
                drop(queue);
                self.added.notify_one();
            }
        }
    }

    /// Keeps a task until the keyring answers for its ticket; gives it back where too many are
    /// parked, of all users or of its own.
    ///
    /// # Errors
    /// The task.
    pub(super) fn park(&self, task: Box<dyn Task>) -> Result<Ticket, Box<dyn Task>> {
        let (user, weight, ticket) = (task.user(), task.weight(), self.answers.ticket());
        let mut parking = self.parking.lock();
        if !parking.admits(user, weight) {
            return Err(task);
        }
        parking.add(ticket, Parked { task, user, weight });
        Ok(ticket)
    }

    /// How many requests are parked.
    pub(super) fn parked(&self) -> usize {
        self.parking.lock().tasks.len()
    }

    fn unpark(&self, ticket: Ticket) -> Option<Box<dyn Task>> {
        self.parking.lock().remove(ticket)
    }

    /// The life of the thread that takes answers: it queues and refuses, and runs nothing.
    pub(super) fn take_answers(&self) {
        while let Some(answer) = self.answers.next() {
            match answer {
                Answer::GateClosed => self.refuse_queued(),
                Answer::Outcome(ticket, outcome) => match (self.unpark(ticket), outcome) {
                    (Some(task), Ok(())) => self.push(task, None),
                    (Some(task), Err(fail)) => task.refuse(Fail::from(fail).errno()),
                    (None, _) => {}
                },
            }
        }
    }

    /// Refuses what the gate would refuse, without waiting until a thread comes to it.
    fn refuse_queued(&self) {
        let mut queue = self.queue.lock();
        let refused = |queued: &Queued| {
            queued.task.purpose().is_some_and(|purpose| self.gate.refuses(purpose).is_some())
        };
        let (gone, kept): (VecDeque<_>, _) = queue.waiting.drain(..).partition(refused);
        queue.waiting = kept;
        drop(queue);
        for Queued { task, .. } in gone {
            let reason = task.purpose().and_then(|purpose| self.gate.refuses(purpose));
            match reason {
                Some(reason) => task.refuse(reason.into()),
                // It was opened again in between.
                None => self.push(task, None),
            }
        }
    }

    /// The life of a thread that runs tasks.
    pub(super) fn run_tasks(&self) {
        let thread = RunnerThread(());
        while let Some(Queued { task, pace }) = self.next() {
            let began = Instant::now();
            task.run(&thread);
            if let Some(pace) = pace {
                pace.note(began.elapsed());
            }
        }
    }

    fn next(&self) -> Option<Queued> {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(queued) = queue.waiting.pop_front() {
                return Some(queued);
            }
            self.added.wait(&mut queue);
        }
    }
}
