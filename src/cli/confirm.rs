//! The question before what cannot be taken back: a name to be typed.

use std::io::{BufRead, IsTerminal};
use std::path::Path;

use crate::console::failure::{Exit, Failure};
use crate::console::printing::question;
use crate::escape::escape;

/// That `what` was left alone.
fn nothing(what: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{what}: nothing was done"))
}

/// Whether there is somebody to ask.
///
/// # Errors
/// Exit code 2, where there is no terminal.
pub(super) fn can_ask(what: &str) -> Result<(), Failure> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    Err(nothing(what).hint("without a terminal, say --yes"))
}

/// Says what will happen to `what`, and has `name` typed.
///
/// # Errors
/// Exit code 2, where there is no terminal, or something else is typed.
pub(super) fn confirm(what: &str, warning: &str, name: &str) -> Result<(), Failure> {
    can_ask(what)?;
    // As it is shown: a name that cannot be read safely can still be typed.
    let name = escape(name);
    question!("{warning} Type {name} to go on: ");
    let mut typed = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut typed)
        .map_err(|e| Failure::io(Path::new("stdin"), &e))?;
    if typed.trim_end_matches('\n') == name { Ok(()) } else { Err(nothing(what)) }
}
