//! How much of a long operation is done at once.
//!
//! An operation that loops over a file or a folder holds a pass of the gate meanwhile, and a lock
//! waits for it. So it works in pieces: when a piece is over it returns [`Fail::Unfinished`] with
//! its progress in what the caller keeps, and is run again after the gate has been passed anew.

use std::time::{Duration, Instant};

use super::errno::{Fail, Outcome};

/// How long a piece takes. A step that was begun is ended, so a slow store makes it longer by as
/// long as that store takes for one step.
const PIECE: Duration = Duration::from_millis(20);

/// A piece of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// `None`: it is never over.
    until: Option<Instant>,
}

impl Piece {
    /// One that begins now.
    pub fn begin() -> Self {
        Self { until: Some(Instant::now() + PIECE) }
    }

    /// All of an operation at once, for those that hold up nobody.
    pub fn all() -> Self {
        Self { until: None }
    }

    /// Whether the operation has worked long enough.
    pub fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// To be asked between two steps.
    ///
    /// # Errors
    /// `Unfinished` when the piece is over.
    pub fn go_on(&self) -> Outcome<()> {
        if self.is_over() { Err(Fail::Unfinished) } else { Ok(()) }
    }
}
