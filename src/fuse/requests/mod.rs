//! Each kernel request in a few lines: an operation of [`Fs`], and what is replied. It knows no
//! transport: who calls it has taken the request apart, and says how an answer is sent.

mod content;
mod entries;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::job::{Answered, Arrived, Simple, Start, go};
use super::reply::Reply;
use super::shared::Shared;
use super::terms::{Opened, PageCache, handle, of_user};
use super::watch::Watch;
use crate::disk::Counted;
use crate::fs::{Errno, Fs, OpenFor, Outcome, Who};
use crate::keys::Purpose;
use crate::metrics::RequestKind;

/// The requests of one mount.
pub(super) struct Requests {
    pub(super) shared: Arc<Shared>,
    pub(super) cache: PageCache,
    /// When reading changes a file's time of access.
    pub(super) times: Counted,
    /// The kernel has been told of rings, and waits for them.
    pub(super) over_rings: AtomicBool,
}

/// A request: who makes it, and where it is run.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    requests: &'a Requests,
    who: Who,
    start: Start<'a>,
    at: Instant,
}

/// What comes of a request at once: its reply, or nothing yet.
pub(super) type Soon<'a, S> = Option<Answered<'a, S>>;

impl Requests {
    /// A request that came at `at`.
    pub(super) fn asked<'a>(&'a self, who: Who, start: Start<'a>, at: Instant) -> Asked<'a> {
        Asked { requests: self, who, start, at }
    }
}

impl<'a> Asked<'a> {
    /// A file that is open so.
    fn opened(self, how: OpenFor) -> Opened {
        let Requests { cache, times, .. } = *self.requests;
        Opened { handle: of_user(handle(how), self.who.uid), flags: cache.open_flags(how, times) }
    }

    fn arrived(self, kind: RequestKind) -> Arrived {
        Arrived { kind, at: self.at }
    }

    fn shared(self) -> &'a Arc<Shared> {
        &self.requests.shared
    }

    fn simple<A: 'static, R: Reply<A>>(
        self,
        kind: RequestKind,
        purpose: Option<Purpose>,
        watch: Option<Watch>,
        op: impl FnMut(&Fs) -> Outcome<A> + Send + 'static,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let job = Simple { op, reply, purpose, who: self.who, watch };
        go(self.shared(), job, self.arrived(kind), self.start)
    }

    /// What cannot be: no operation is run.
    fn refuse<A, R: Reply<A>>(self, kind: RequestKind, errno: i32, reply: R) -> Soon<'a, R::Sent> {
        let sent = reply.send(Err(Errno(errno)));
        Some(Answered::of(sent, self.shared(), self.arrived(kind)))
    }

    /// A request of which nothing is known here.
    pub(super) fn unknown<R: Reply<()>>(self, reply: R) -> Soon<'a, R::Sent> {
        self.refuse(RequestKind::Other, libc::ENOSYS, reply)
    }

    fn answer<A: 'static, R: Reply<A>>(
        self,
        kind: RequestKind,
        op: impl FnMut(&Fs) -> Outcome<A> + Send + 'static,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        self.simple(kind, Some(Purpose::Use), None, op, reply)
    }

    /// As `answer`, for what changes the store, which is done in the name of who asks.
    fn change<A: 'static, R: Reply<A>>(
        self,
        kind: RequestKind,
        mut op: impl FnMut(&Fs) -> Outcome<A> + Send + 'static,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let who = self.who;
        self.answer(kind, move |fs| fs.act_for(who).and_then(|()| op(fs)), reply)
    }

    /// As `change`, and the audit log is told.
    fn watched_change<A: 'static, R: Reply<A>>(
        self,
        kind: RequestKind,
        watch: Option<Watch>,
        mut op: impl FnMut(&Fs) -> Outcome<A> + Send + 'static,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        let who = self.who;
        self.watched(kind, watch, move |fs| fs.act_for(who).and_then(|()| op(fs)), reply)
    }

    /// As `answer`, and the audit log is told.
    fn watched<A: 'static, R: Reply<A>>(
        self,
        kind: RequestKind,
        watch: Option<Watch>,
        op: impl FnMut(&Fs) -> Outcome<A> + Send + 'static,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        self.simple(kind, Some(Purpose::Use), watch, op, reply)
    }

    /// For what is served in every state: it touches no plaintext and no name.
    fn always<A: 'static, R: Reply<A>>(
        self,
        kind: RequestKind,
        op: impl FnMut(&Fs) -> Outcome<A> + Send + 'static,
        reply: R,
    ) -> Soon<'a, R::Sent> {
        self.simple(kind, None, None, op, reply)
    }
}
