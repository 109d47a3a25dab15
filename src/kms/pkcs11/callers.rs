//! Threads that make the calls, each with a session of its own.
//!
//! A call of a module has no time limit. So whoever needs one hands it to a thread and waits for so
//! long; a call that hangs keeps its thread, and nobody else.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::session::{Line, Open, Way};
use crate::kms::{KmsError, Verdict};
use crate::secret::scrub_stack;
use crate::threads::{Role, spawn};

/// How long one waits for a call.
const LIMIT: Duration = Duration::from_secs(3);
/// With so many calls that hang no other is begun.
const MOST: usize = 32;

type Job = Box<dyn FnOnce(&mut Line) + Send>;

/// What a thread is given to do.
struct Task {
    job: Job,
    /// How the thread is given the next.
    me: Sender<Task>,
}

#[derive(Default)]
struct State {
    /// Threads that wait for a call.
    idle: Vec<Sender<Task>>,
    /// All threads.
    running: usize,
    /// Counts how often they were sent home; who is busy then goes when the call is over.
    shift: u64,
}

/// The threads of one client.
pub(super) struct Callers {
    way: Way,
    role: Role,
    state: Arc<Mutex<State>>,
}

impl Callers {
    pub(super) fn new(way: Way, role: Role) -> Self {
        Self { way, role, state: Arc::default() }
    }

    /// How sessions are had.
    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// Makes a call for `what`.
    ///
    /// # Errors
    /// `Unavailable` where it hangs; else the call's, and those of opening a session.
    pub(super) fn call<T: Send + 'static>(
        &self,
        what: &str,
        mut make: impl FnMut(&mut Open) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let (answer, answered) = channel();
        let job = move |line: &mut Line| {
            // Nobody may wait any more.
            let _ = answer.send(line.call(&mut make));
        };
        let no = |code: &str, why: &str| {
            Err(KmsError::new(Verdict::Unavailable, code, format!("{what}: {why}")))
        };
        if let Err(why) = self.hand_over(Box::new(job)) {
            return no("Busy", &why);
        }
        match answered.recv_timeout(LIMIT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                no("Timeout", "the module of the token has not answered for 3 s")
            }
            Err(RecvTimeoutError::Disconnected) => no("Internal", "the call panicked"),
        }
    }

    /// Gives a job to a thread that waits, else to a new one.
    fn hand_over(&self, mut job: Job) -> Result<(), String> {
        let mut state = self.state.lock();
        while let Some(me) = state.idle.pop() {
            match me.send(Task { job, me: me.clone() }) {
                Ok(()) => return Ok(()),
                // It has ended.
                Err(back) => job = back.0.job,
            }
        }
        if state.running >= MOST {
            return Err(format!("{MOST} calls of the token's module hang"));
        }
        state.running += 1;
        let here = Here { state: self.state.clone(), shift: state.shift };
        drop(state);
        let (me, tasks) = channel();
        let way = self.way.clone();
        // Without a thread the closure is dropped, and `here` with it.
        spawn(self.role, move || work(&here, Line::new(way), &tasks))
            .map_err(|e| format!("there is no thread for it: {e}"))?;
        me.send(Task { job, me: me.clone() }).map_err(|_| "its thread has ended".to_owned())
    }

    /// Sends all threads home: their sessions are closed.
    pub(super) fn send_home(&self) {
        let mut state = self.state.lock();
        state.shift += 1;
        state.idle.clear();
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.send_home();
    }
}

/// A thread that is counted.
struct Here {
    state: Arc<Mutex<State>>,
    shift: u64,
}

impl Drop for Here {
    fn drop(&mut self) {
        self.state.lock().running -= 1;
    }
}

/// Makes calls until it is sent home.
fn work(here: &Here, mut line: Line, tasks: &Receiver<Task>) {
    while let Ok(Task { job, me }) = tasks.recv() {
        job(&mut line);
        scrub_stack();
        let mut state = here.state.lock();
        if state.shift != here.shift {
            return;
        }
        state.idle.push(me);
    }
}
