//! What is marked in a timeline's picture. Pure.

use super::means::Orders;
use super::verdict::{self, Facts};
use crate::clock::Moment;

/// A vertical line with its label.
pub struct Mark {
    /// When.
    pub at: Moment,
    /// What.
    pub label: &'static str,
    /// How it is drawn.
    pub stroke: Stroke,
}

/// How a mark is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    /// Something happened.
    Solid,
    /// Something was promised.
    Dashed,
}

/// The two orders and, between them, the promise.
pub fn of(facts: &Facts<'_>) -> Vec<Mark> {
    let Orders { away, back } = facts.means.marks();
    let promised = Mark {
        at: verdict::since(facts) + verdict::bound(facts),
        label: "promised: unreadable by here",
        stroke: Stroke::Dashed,
    };
    let t = facts.timeline;
    [
        t.disabled.map(|at| solid(at, away)),
        t.disabled.map(|_| promised),
        t.enabled.map(|at| solid(at, back)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Something that happened.
pub fn solid(at: Moment, label: &'static str) -> Mark {
    Mark { at, label, stroke: Stroke::Solid }
}
