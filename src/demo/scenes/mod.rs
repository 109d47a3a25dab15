//! What else is shown when it is asked for: scenes on the stage of the play, after it.

mod copy;
mod forwarder;
mod goes_on;
mod line;
mod locks;
mod neighbours;
mod network;

use std::time::Duration;

use clap::ValueEnum;

use super::Demo;
use super::interrupts::Interrupts;
use super::marks::Mark;
use super::means::Means;
use super::play::Times;
use super::screen::say;
use super::stage::Stage;
use super::timeline::Timeline;
use super::verdict::{Check, Since};
use crate::console::failure::Failure;

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Also {
    /// Every part
    All,
    /// The key's deletion is scheduled, and cancelled
    Deletion,
    /// The KMS cannot be reached for a while
    Network,
    /// The mount's permission to use the key is taken away (see --deny)
    Permission,
    /// The locked store is copied
    Copy,
    /// Two stores are under the key, and one is under another
    Neighbours,
}

/// A part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// See [`Also::Deletion`].
    Deletion,
    /// See [`Also::Network`].
    Network,
    /// See [`Also::Permission`].
    Permission,
    /// See [`Also::Copy`].
    Copy,
    /// See [`Also::Neighbours`].
    Neighbours,
}

impl Part {
    const ALL: [Self; 5] =
        [Self::Deletion, Self::Network, Self::Permission, Self::Copy, Self::Neighbours];

    /// As it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deletion => "deletion",
            Self::Network => "network",
            Self::Permission => "permission",
            Self::Copy => "copy",
            Self::Neighbours => "neighbours",
        }
    }

    /// What happens in it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Deletion => "the key's deletion is scheduled, and cancelled",
            Self::Network => "the KMS cannot be reached for a while",
            Self::Permission => "the mount may not use the key for a while",
            Self::Copy => "the store is copied while it is locked",
            Self::Neighbours => "two stores are under the key, and one is under another",
        }
    }
}

/// The parts that are asked for, each once, in the order in which they are played.
pub fn parts(also: &[Also]) -> Vec<Part> {
    let asked = |part: Part| {
        let is = |also: &Also| match also {
            Also::All => true,
            Also::Deletion => part == Part::Deletion,
            Also::Network => part == Part::Network,
            Also::Permission => part == Part::Permission,
            Also::Copy => part == Part::Copy,
            Also::Neighbours => part == Part::Neighbours,
        };
        also.iter().any(is)
    };
    Part::ALL.into_iter().filter(|part| asked(*part)).collect()
}

/// What came of a part.
pub struct Act {
    /// Which.
    pub part: Part,
    /// How it ended.
    pub ending: Ending,
}

impl Act {
    /// Whether no promise of it was broken.
    pub fn held(&self) -> bool {
        match &self.ending {
            Ending::Played(played) => played.checks.iter().all(|check| check.held),
            Ending::LeftOut(_) => true,
        }
    }
}

/// How a part ended.
pub enum Ending {
    /// It was played.
    Played(Played),
    /// It cannot be played here, and why.
    LeftOut(&'static str),
}

/// What was seen of a part.
pub struct Played {
    /// Its promises.
    pub checks: Vec<Check>,
    /// What was seen of the programs, and what is marked in it; `None` where none was at work.
    pub picture: Option<(Timeline, Vec<Mark>)>,
}

/// What a scene is played with. Its stage has the main store mounted, and has it so again afterwards.
struct Scene<'a> {
    stage: &'a mut Stage,
    interrupts: &'a Interrupts,
    args: &'a Demo,
    times: Times,
    since: Since,
}

/// The time at work before, during and after what happens in a scene.
const PART: Duration = Duration::from_secs(1);

/// Plays the parts that are asked for.
///
/// # Errors
/// When something fails that is no promise of a mount, or at a signal.
pub fn play(
    stage: &mut Stage,
    interrupts: &Interrupts,
    args: &Demo,
    since: Since,
) -> Result<Vec<Act>, Failure> {
    let times = Times { heartbeat: args.heartbeat, part: PART };
    let mut acts = Vec::new();
    for part in parts(&args.also) {
        interrupts.check()?;
        say("");
        say(&format!("{}: {}", part.name(), part.title()));
        let mut scene = Scene { stage: &mut *stage, interrupts, args, times, since };
        let ending = match part {
            Part::Deletion => locks::play(&mut scene, Means::Deletion)?,
            Part::Network => network::play(&mut scene)?,
            Part::Permission => locks::play(&mut scene, Means::Permission)?,
            Part::Copy => Ending::Played(copy::play(&mut scene)?),
            Part::Neighbours => Ending::Played(neighbours::play(&mut scene)?),
        };
        if let Ending::LeftOut(why) = ending {
            say(&format!("left out: {why}"));
        }
        acts.push(Act { part, ending });
    }
    Ok(acts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_played_once_and_in_order() {
        assert_eq!(parts(&[]), []);
        assert_eq!(parts(&[Also::Copy, Also::Deletion, Also::Copy]), [Part::Deletion, Part::Copy]);
        assert_eq!(parts(&[Also::Copy, Also::All]), Part::ALL);
    }

    #[test]
    fn a_part_is_asked_for_by_its_name() {
        for part in Part::ALL {
            let also = Also::from_str(part.name(), false).expect("a name of a part");
            assert_eq!(parts(&[also]), [part]);
        }
    }
}
