//! What the keyring has for the requests that wait for a key: a queue of outcomes.
//!
//! Threads of the keyring, the kill switch among them, only add to it, which neither blocks nor
//! runs anything. Whoever runs requests takes outcomes out and acts on them.

use std::collections::VecDeque;

use super::request::KeyFail;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// Names a request that waits for a key. It is a number: the keyring cannot do anything with a
/// request but name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// What the keyring has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The key that a request waits for is there, or is known not to come.
    Outcome(Ticket, Result<(), KeyFail>),
    /// The gate has closed further: requests on their way to it will be refused.
    GateClosed,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Answer>,
    closed: bool,
}

/// The queue of answers. Its length is bounded by the number of requests that wait.
#[derive(Default)]
pub struct Answers {
    state: Mutex<State>,
    added: Condvar,
    last: AtomicU64,
}

impl Answers {
    /// A ticket that was never given before.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.last.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn add(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut state = self.state.lock();
        let before = state.queue.len();
        state.queue.extend(answers);
        let is_more = state.queue.len() > before;
        drop(state);
        // Most keys that are fetched ahead have nobody who waits for them.
        if is_more {
            self.added.notify_all();
        }
    }

    /// Waits for the next answer; `None` when the queue is closed and empty.
    pub fn next(&self) -> Option<Answer> {
        let mut state = self.state.lock();
        loop {
            if let Some(answer) = state.queue.pop_front() {
                return Some(answer);
            }
            if state.closed {
                return None;
            }
            self.added.wait(&mut state);
        }
    }

    /// What is there now.
    #[cfg(test)]
    pub(super) fn take(&self) -> Vec<Answer> {
        self.state.lock().queue.drain(..).collect()
    }

    /// Ends those who wait for answers, once they have taken what is there.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.added.notify_all();
    }
}
