//! What other threads have for the thread of a lane: replies that it is to commit, and requests
//! that came elsewhere.
//!
//! A thread of the runner waits until its reply is committed; [`RunnerThread`] says so by its
//! type. All others only leave something here.

use crate::fuse::runner::RunnerThread;
use crate::sync::{Condvar, Mutex};

/// How the owner of a mailbox is woken.
pub(super) trait Wake {
    /// Wakes it, now or when it next waits.
    fn wake(&self);
}

struct State<P, F> {
    posted: Vec<P>,
    forwarded: Vec<F>,
    posts: u64,
    sent: u64,
    closed: bool,
}

/// The mailbox of a thread that commits replies `P` and answers requests `F`.
pub(super) struct Mailbox<P, F, W> {
    state: Mutex<State<P, F>>,
    sent: Condvar,
    owner: W,
}

impl<P, F, W: Wake> Mailbox<P, F, W> {
    /// An empty one.
    pub(super) fn new(owner: W) -> Self {
        let (posted, forwarded) = (Vec::new(), Vec::new());
        let state = State { posted, forwarded, posts: 0, sent: 0, closed: false };
        Self { state: Mutex::new(state), sent: Condvar::new(), owner }
    }

    /// What wakes the owner.
    pub(super) fn owner(&self) -> &W {
        &self.owner
    }

    /// Leaves a reply, and does not wait until it is sent: errors, for they say nothing.
    pub(super) fn post(&self, reply: P) {
        self.leave(&mut self.state.lock(), reply);
    }

    /// Leaves a reply and waits until it is sent: the caller holds a pass of the gate, and a lock
    /// must not be complete before. Only a thread of the runner may wait, which no lane waits for.
    pub(super) fn post_and_wait(&self, reply: P, _: &RunnerThread) {
        let mut state = self.state.lock();
        let Some(number) = self.leave(&mut state, reply) else { return };
        while state.sent < number && !state.closed {
            self.sent.wait(&mut state);
        }
    }

    /// Which post it is; `None` where nobody sends it any more.
    fn leave(&self, state: &mut State<P, F>, reply: P) -> Option<u64> {
        if state.closed {
            return None;
        }
        state.posted.push(reply);
        state.posts += 1;
        self.owner.wake();
        Some(state.posts)
    }

    /// Leaves a request for the owner to answer.
    ///
    /// # Errors
    /// The request, where nobody answers it any more.
    pub(super) fn forward(&self, request: F) -> Result<(), F> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(request);
        }
        state.forwarded.push(request);
        self.owner.wake();
        Ok(())
    }

    /// Of the owner: what was left.
    pub(super) fn take(&self) -> (Vec<P>, Vec<F>) {
        let mut state = self.state.lock();
        (std::mem::take(&mut state.posted), std::mem::take(&mut state.forwarded))
    }

    /// Of the owner: so many more of the replies have been sent.
    pub(super) fn note_sent(&self, replies: usize) {
        self.state.lock().sent += replies as u64;
        self.sent.notify_all();
    }

    /// Of the owner, which has ended: nobody is to wait for it any more.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.posted.clear();
        state.forwarded.clear();
        drop(state);
        self.sent.notify_all();
    }
}
