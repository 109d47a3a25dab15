//! What a service manager is told (sd_notify(3)): where it named a socket, and nowhere else.

use sd_notify::NotifyState;

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

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("the service manager is not told: {e}");
    }
}
