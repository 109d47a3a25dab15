//! The token in use: had when it is first needed, renewed before it ends, and had anew when the
//! server does not know it any more.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::answer::{self, Login, Looked};
use super::auth::Token;
use super::errors::{ACCESS_DENIED, UNKNOWN};
use super::http::{Ask, Http};
use super::place::Place;
use crate::clock::Moment;
use crate::kms::{KmsError, Verdict};
use crate::threads::{Role, spawn};

/// Between two logins, where what the last gave is not accepted.
const SHORTEST: Duration = Duration::from_secs(3);
/// Those who waited for a login that failed do not each begin another.
const FAILED: Duration = Duration::from_millis(500);
/// After a renewal that got no answer.
const AGAIN: Duration = Duration::from_secs(1);
/// After a login that the server refused: a call that needs a token logs in by itself.
const LATER: Duration = Duration::from_secs(10);
/// The longest that the thread sleeps: a token without an end is looked at so often.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A token, and how long it lasts.
#[derive(Clone)]
struct Held {
    token: Arc<Token>,
    /// When it was asked for.
    had: Moment,
    /// `None` for one that does not end, or of which nothing is known.
    lease: Option<Lease>,
}

impl Held {
    /// Whether it may have ended, by what the server said of it.
    fn may_have_ended(&self, now: Moment) -> bool {
        self.lease.is_some_and(|lease| now >= lease.ends)
    }
}

#[derive(Clone, Copy)]
struct Lease {
    /// Counted from before the server was asked: no later than by its own clock.
    ends: Moment,
    /// When it is renewed.
    renewal: Moment,
    /// As long as it lasted at first: a renewal that gives much less meets the token's last end.
    at_first: Duration,
    renewable: bool,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failed: Option<(Moment, KmsError)>,
    /// Wakes the thread that renews; it ends when this is gone.
    renewer: Option<Sender<()>>,
}

/// What all doors to a server share.
pub(super) struct Session {
    place: Place,
    /// Held across no call: who has a token waits for nobody.
    state: Mutex<State>,
    /// Had by whoever asks for a token, so that all who wait share what comes of it.
    turn: Mutex<()>,
}

impl Session {
    pub(super) fn new(place: Place) -> Self {
        Self { place, state: Mutex::default(), turn: Mutex::default() }
    }

    /// The token.
    ///
    /// # Errors
    /// As [`Auth::token`].
    pub(super) fn token(self: &Arc<Self>) -> Result<Arc<Token>, KmsError> {
        if let Some(token) = self.held() {
            return Ok(token);
        }
        let turn = self.turn.lock();
        match self.held() {
            Some(token) => Ok(token),
            None => self.begin(&turn),
        }
    }

    fn held(&self) -> Option<Arc<Token>> {
        self.state.lock().held.as_ref().map(|held| held.token.clone())
    }

    /// Another token than the one that the server has just refused; `None` where the refusal
    /// stands: the token is good, and it is what it asks for that it may not.
    ///
    /// # Errors
    /// Where the server cannot be asked whether that is so.
    pub(super) fn instead_of(
        self: &Arc<Self>,
        refused: &Arc<Token>,
    ) -> Result<Option<Arc<Token>>, KmsError> {
        if let Some(known) = self.known_instead_of(refused) {
            return Ok(known);
        }
        if self.place.auth.is_login() && self.is_good(refused)? {
            return Ok(None);
        }
        let turn = self.turn.lock();
        if let Some(known) = self.known_instead_of(refused) {
            return Ok(known);
        }
        let fresh = match self.begin(&turn) {
            Ok(token) => token,
            Err(e) if e.verdict == Verdict::Unavailable => return Err(e),
            Err(e) => {
                log::warn!("{e}");
                return Ok(None);
            }
        };
        Ok((fresh != *refused).then_some(fresh))
    }

    /// What needs no question: another token is there, or the refusal stands.
    fn known_instead_of(&self, refused: &Arc<Token>) -> Option<Option<Arc<Token>>> {
        let now = Moment::now();
        match &self.state.lock().held {
            Some(held) if held.token != *refused => Some(Some(held.token.clone())),
            Some(held) if now.since(held.had) < SHORTEST && !held.may_have_ended(now) => Some(None),
            _ if !self.place.auth.can_begin_anew() => Some(None),
            _ => None,
        }
    }

    /// Whether the server knows a token.
    fn is_good(&self, token: &Token) -> Result<bool, KmsError> {
        match self.look(token) {
            Ok(_) => Ok(true),
            Err(e) if e.code == ACCESS_DENIED => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn look(&self, token: &Token) -> Result<Looked, KmsError> {
        let what = "the look at the token";
        let ask = ("auth/token/lookup-self", Ask::Get);
        answer::data(what, &Http::new(&self.place)?.ask(what, ask, Some(token))?)
    }

    /// Has a token.
    fn begin(self: &Arc<Self>, _turn: &MutexGuard<'_, ()>) -> Result<Arc<Token>, KmsError> {
        let now = Moment::now();
        let failed = self.state.lock().failed.clone();
        if let Some((_, e)) = failed.filter(|(at, _)| now.since(*at) < FAILED) {
            return Err(e);
        }
        let (token, login) = match self.place.auth.token(&self.place) {
            Ok(got) => got,
            Err(e) => {
                let e = of_login(e);
                self.state.lock().failed = Some((Moment::now(), e.clone()));
                return Err(e);
            }
        };
        let lease = match login {
            Some(login) => lease(now, login.lease_duration, login.renewable),
            // What is refused here, the call itself will tell better.
            None => self.look(&token).ok().and_then(|seen| lease(now, seen.ttl, seen.renewable)),
        };
        let token = Arc::new(token);
        let mut state = self.state.lock();
        state.held = Some(Held { token: token.clone(), had: now, lease });
        state.failed = None;
        match &state.renewer {
            // Its thread ends only with the session.
            Some(renewer) => drop(renewer.send(())),
            None => state.renewer = self.start_renewer(),
        }
        Ok(token)
    }

    fn start_renewer(self: &Arc<Self>) -> Option<Sender<()>> {
        let (wake, woken) = channel();
        let session = Arc::downgrade(self);
        match spawn(Role::Token, move || renew_on(&session, &woken)) {
            Ok(_) => Some(wake),
            Err(e) => {
                log::error!("cannot start a thread that renews the token: {e}");
                None
            }
        }
    }

    /// How long until the token is to be renewed.
    fn until_renewal(&self) -> Duration {
        let state = self.state.lock();
        let Some(Held { lease: Some(lease), .. }) = &state.held else { return LONGEST };
        lease.renewal.since(Moment::now()).min(LONGEST)
    }

    /// Renews the token, or has another.
    fn renew(self: &Arc<Self>) {
        let Some(held) = self.state.lock().held.clone() else { return };
        let Some(before) = held.lease else { return };
        let auth = &self.place.auth;
        let asked = Moment::now();
        let renewed = if before.renewable { self.renew_self(&held.token) } else { Ok(None) };
        let good = match renewed {
            Ok(login) => {
                login.and_then(|login| lease(asked, login.lease_duration, login.renewable))
            }
            Err(e) if e.verdict == Verdict::Unavailable => {
                log::warn!("{e}; it is tried again");
                return self.postpone(&held, before, AGAIN);
            }
            Err(e) => {
                log::warn!("{e}");
                None
            }
        };
        let good = good.map(|lease| Lease { at_first: before.at_first, ..lease });
        let lasts = |lease: &Lease| lease.ends.since(asked);
        if let Some(lease) = good.filter(|l| lasts(l) * 2 > l.at_first || !auth.is_login()) {
            return self.keep(&held, lease);
        }
        if !auth.can_begin_anew() {
            let left = before.ends.since(Moment::now());
            log::warn!("the token of Vault cannot be renewed: it ends within {left:?}");
            return self.postpone(&held, before, LONGEST);
        }
        let turn = self.turn.lock();
        if self.held() != Some(held.token.clone()) {
            // Somebody was refused meanwhile, and has another.
            return;
        }
        if let Err(e) = self.begin(&turn) {
            log::warn!("{e}; it is tried again");
            let pause = if e.verdict == Verdict::Unavailable { AGAIN } else { LATER };
            self.postpone(&held, before, pause);
        }
    }

    fn renew_self(&self, token: &Token) -> Result<Option<Login>, KmsError> {
        let what = "the renewal of the token";
        let ask = ("auth/token/renew-self", Ask::Post(b"{}"));
        let reply = Http::new(&self.place)?.ask(what, ask, Some(token))?;
        answer::login(what, &reply).map(Some)
    }

    /// Renews the token later. It lasts no longer for that.
    fn postpone(&self, held: &Held, lease: Lease, pause: Duration) {
        self.keep(held, Lease { renewal: Moment::now() + pause, ..lease });
    }

    /// Notes how long the token lasts, if it still is the one in use.
    fn keep(&self, held: &Held, lease: Lease) {
        let mut state = self.state.lock();
        if let Some(now) = state.held.as_mut().filter(|now| now.token == held.token) {
            now.lease = Some(lease);
        }
    }
}

/// The thread that renews: until the session is gone.
fn renew_on(session: &Weak<Session>, woken: &Receiver<()>) {
    loop {
        let Some(wait) = session.upgrade().map(|session| session.until_renewal()) else { return };
        match woken.recv_timeout(wait) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => match session.upgrade() {
                Some(session) => session.renew(),
                None => return,
            },
        }
    }
}

/// What the server said of a token that was asked for, or renewed, at this moment. It is renewed
/// when half of its time is over.
fn lease(asked: Moment, seconds: u64, renewable: bool) -> Option<Lease> {
    let lasts = Duration::from_secs(seconds);
    (seconds > 0).then(|| Lease {
        ends: asked + lasts,
        renewal: asked + lasts / 2,
        at_first: lasts,
        renewable,
    })
}

/// A login that the server refuses: it does not know who asks. A call that was refused before it
/// stays refused.
fn of_login(e: KmsError) -> KmsError {
    match e.verdict {
        Verdict::Unavailable if e.code != UNKNOWN => e,
        Verdict::Credentials => e,
        _ => KmsError::new(Verdict::Credentials, "VaultLogin", e.message),
    }
}

#[cfg(test)]
mod tests {
    use super::super::auth::Auth;
    use super::*;

    #[test]
    fn a_token_without_an_end_is_not_renewed() {
        let now = Moment::now();
        assert!(lease(now, 0, true).is_none());
        let session = Session::new(Place::sample());
        assert_eq!(session.until_renewal(), LONGEST);
        let held = |seconds| Held {
            token: Arc::new(Token::new(b"t")),
            had: now,
            lease: lease(now, seconds, true),
        };
        session.state.lock().held = Some(held(10));
        let wait = session.until_renewal();
        assert!(wait <= Duration::from_secs(5) && wait > Duration::from_secs(4), "{wait:?}");
    }

    /// A short token ended on a busy machine before it was renewed. The refusal that followed counted
    /// as the operator's, and the mount was locked.
    #[test]
    fn a_refusal_stands_at_once_only_of_a_token_that_cannot_have_ended() {
        let role = Auth::AppRole {
            mount: "approle".to_owned(),
            role_id: "r".to_owned(),
            secret_id_file: None,
        };
        let session = Session::new(Place { auth: role, ..Place::sample() });
        let (token, now) = (Arc::new(Token::new(b"t")), Moment::now());
        let known = |had: Moment, lease: Option<Lease>| {
            session.state.lock().held = Some(Held { token: token.clone(), had, lease });
            session.known_instead_of(&token)
        };
        assert!(matches!(known(now, lease(now, 60, true)), Some(None)), "it stands");
        assert!(matches!(known(now, None), Some(None)), "it stands");
        let before = now.before(Duration::from_secs(2));
        assert!(known(before, lease(before, 1, true)).is_none(), "it ended");
        // Nor does a renewal that is put off let it live longer.
        let held = Held { token: token.clone(), had: before, lease: lease(before, 1, true) };
        session.postpone(&held, held.lease.expect("it has one"), AGAIN);
        assert!(session.known_instead_of(&token).is_none(), "it ended");
        assert!(!session.until_renewal().is_zero(), "and is renewed later");
    }
}
