//! Replies: made from an outcome, then sent by the thread that has them.

use super::runner::RunnerThread;
use crate::fs::Errno;

/// A reply that is ready to be sent. A thread of a ring sends it by itself; these are the ways of
/// all others.
pub(super) trait Sent: Send {
    /// Has it sent, and returns when it is with the program. It may wait for the thread of a
    /// lane, which a thread of the runner alone may do.
    fn send_and_wait(self, thread: &RunnerThread);
    /// Has an errno sent. It does not wait.
    fn send_refusal(self);
}

/// Over /dev/fuse a reply is sent as it is made.
impl Sent for () {
    fn send_and_wait(self, _: &RunnerThread) {}

    fn send_refusal(self) {}
}

/// How a reply is made from an outcome.
pub(super) trait Reply<A>: Send + 'static {
    /// What it makes.
    type Sent: Sent;
    /// Makes it.
    fn send(self, outcome: Result<A, Errno>) -> Self::Sent;
}

impl<A, S, F> Reply<A> for F
where
    S: Sent,
    F: FnOnce(Result<A, Errno>) -> S + Send + 'static,
{
    type Sent = S;

    fn send(self, outcome: Result<A, Errno>) -> S {
        self(outcome)
    }
}
