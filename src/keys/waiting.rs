//! Those who wait for a key: registered, answered, and asked for again.

use super::answers::{Answer, Ticket};
use super::cache::Expiry;
use super::keyring::{Inner, Keyring, PARKED_FOR};
use super::machine::Phase;
use super::want::{KeyFail, Waiter, Want};
use crate::clock::Moment;
use crate::sync::atomic::Ordering;

impl Keyring {
    /// Has `ticket` answered once: when the key is there, when it is known not to come, or after
    /// four seconds.
    pub fn want(&self, want: Want, ticket: Ticket) {
        let mut inner = self.inner.lock();
        if let Some(reason) = self.gate().phase().reason() {
            drop(inner);
            let closed = Err(KeyFail::Closed(reason));
            return self.answers().add([Answer::Outcome(ticket, closed)]);
        }
        let deadline = Moment::now() + PARKED_FOR;
        inner.waiting.entry(want).or_default().push(Waiter { ticket, deadline });
        match want {
            // Fetched even if it came in the meantime: rare, and simpler than another look.
            Want::File(file) => {
                let later = inner.later.iter().position(|f| *f == file);
                if let Some(at) = later {
                    inner.later.remove(at);
                }
                if inner.in_flight.insert(file) || later.is_some() {
                    inner.queue.push_back(file);
                    self.fetch_work.notify_one();
                }
            }
            Want::Fresh => {
                // Filled since the caller found it empty: nobody would wake this waiter.
                if inner.pool.len() > 0 {
                    drop(inner);
                    return self.wake(want, Ok(()));
                }
                self.pool_work.notify_one();
            }
            Want::Beat => self.beat_wanted.store(true, Ordering::Relaxed),
        }
    }

    /// Answers everyone who waits for `want`.
    pub(super) fn wake(&self, want: Want, outcome: Result<(), KeyFail>) {
        let waiters = self.inner.lock().waiting.remove(&want).unwrap_or_default();
        self.answer(waiters, outcome);
    }

    /// Answers everyone who waits for anything.
    pub(super) fn wake_all(&self, outcome: Result<(), KeyFail>) {
        let all = std::mem::take(&mut self.inner.lock().waiting);
        self.answer(all.into_values().flatten(), outcome);
    }

    fn answer(&self, waiters: impl IntoIterator<Item = Waiter>, outcome: Result<(), KeyFail>) {
        let answer = |waiter: Waiter| Answer::Outcome(waiter.ticket, outcome);
        self.answers().add(waiters.into_iter().map(answer));
    }

    /// Closes the gate so far. Those who wait are answered, and those on their way to the gate
    /// will be refused.
    pub(super) fn close(&self, phase: Phase) {
        self.gate().set(phase);
        if let Some(reason) = phase.reason() {
            self.wake_all(Err(KeyFail::Closed(reason)));
        }
        self.answers().add([Answer::GateClosed]);
    }

    /// Answers those whose time is up, and asks again for what the others wait for.
    pub(super) fn tick(&self, now: Moment) {
        let mut late = Vec::new();
        {
            let mut inner = self.inner.lock();
            let Inner { waiting, queue, in_flight, cache, again, .. } = &mut *inner;
            let again = now >= *again;
            waiting.retain(|want, waiters| {
                late.extend(waiters.extract_if(.., |w| now >= w.deadline));
                if let Want::File(file) = want
                    && !waiters.is_empty()
                    && again
                    && in_flight.insert(*file)
                {
                    queue.push_back(*file);
                }
                !waiters.is_empty()
            });
            // A locked mount asks for nothing but beats: each refusal here would cause one more.
            if self.expiry() == Expiry::Strict && self.gate().phase() == Phase::Open {
                cache.expire(now);
                self.branches.expire(now);
                for file in cache.due(now) {
                    if in_flight.insert(file) {
                        queue.push_back(file);
                    }
                }
            }
            if !queue.is_empty() {
                self.fetch_work.notify_all();
            }
        }
        self.answer(late, Err(KeyFail::Late));
    }
}
