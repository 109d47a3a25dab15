//! What a service manager is told (sd_notify(3)): where it named a socket, and nowhere else.

use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;

use crate::clock::Moment;

/// The mount answers.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("open")]);
}

/// Where it stands, in the word of `status`, and why.
pub(super) fn state(word: &str, because: &str) {
    // A line break would end it.
    let line = crate::escape::escape(&format!("{word}{because}")).into_owned();
    tell(&[NotifyState::Status(&line)]);
}

/// It has been unmounted, and tidies up.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The watchdog of a service (`WatchdogSec=`): a manager that hears nothing for so long kills the
/// daemon and starts it again.
pub(super) struct Watchdog {
    apart: Duration,
    fed: Mutex<Moment>,
}

impl Watchdog {
    /// `None` where the manager has none for this process.
    pub(super) fn of_environment() -> Option<Self> {
        // Half of its time, as sd_watchdog_enabled(3) recommends.
        let apart = sd_notify::watchdog_enabled()? / 2;
        Some(Self { apart, fed: Mutex::new(Moment::now()) })
    }

    /// Tells the manager that the daemon is at work, if that is due.
    pub(super) fn feed(&self, now: Moment) {
        let mut fed = self.fed.lock();
        if now.since(*fed) >= self.apart {
            *fed = now;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("the service manager is not told: {e}");
    }
}
