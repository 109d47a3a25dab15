//! The key is taken away by other means than disabling it: the mount locks all the same.

use super::{Ending, Played, Scene};
use crate::console::failure::Failure;
use crate::demo::marks;
use crate::demo::master::{Master, Remote};
use crate::demo::means::Means;
use crate::demo::play::Play;
use crate::demo::verdict::{self, Facts};

/// Plays it, where the KMS has these means.
///
/// # Errors
/// As [`Play::run`].
pub(super) fn play(scene: &mut Scene<'_>, means: Means) -> Result<Ending, Failure> {
    if let Some(why) = lacks(scene, means) {
        return Ok(Ending::LeftOut(why));
    }
    let Scene { stage, interrupts, times, since, .. } = scene;
    let found = Play::new(stage, interrupts, *times, means).run()?;
    let facts = Facts {
        timeline: &found.timeline,
        heartbeat: times.heartbeat,
        since: *since,
        means,
        lines: found.lines,
        database: None,
    };
    let (checks, marks) = (verdict::judge_briefly(&facts), marks::of(&facts));
    Ok(Ending::Played(Played { checks, picture: Some((found.timeline, marks)) }))
}

/// Why it cannot be played.
fn lacks(scene: &Scene<'_>, means: Means) -> Option<&'static str> {
    let stage = &scene.stage;
    match (means, stage.master()) {
        (Means::Deletion, Master::Remote(Remote { kms: "vault", .. })) => {
            Some("Transit deletes a key at once, and does not give it back")
        }
        (Means::Deletion, Master::Remote(Remote { kms: "pkcs11", .. })) => {
            Some("a token deletes a key at once, and does not give it back")
        }
        (Means::Permission, Master::Embedded) => {
            Some("the embedded keystore asks nobody for a permission; with another KMS, say --deny")
        }
        (Means::Permission, Master::Remote(_)) if stage.permission().is_none() => {
            Some("it needs two commands of yours: --deny COMMAND --allow COMMAND")
        }
        _ => None,
    }
}
