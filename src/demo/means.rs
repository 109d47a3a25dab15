//! How the key is taken away, and given back: in the words of the screen and the report. Pure.

/// What is done to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// It is disabled, and enabled.
    Disable,
    /// Its deletion is scheduled, and cancelled; then it is enabled.
    Deletion,
    /// The mount may no longer use it, and may again.
    Permission,
}

/// Words for an order and for the one that undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// The first.
    pub away: &'static str,
    /// The second.
    pub back: &'static str,
}

impl Means {
    /// As times are counted from them: "… after the disable".
    pub fn nouns(self) -> Orders {
        match self {
            Self::Disable => Orders { away: "the disable", back: "the enable" },
            Self::Deletion => Orders { away: "the scheduling", back: "the cancellation" },
            Self::Permission => Orders { away: "the withdrawal", back: "the return" },
        }
    }

    /// As they stand in a picture.
    pub fn marks(self) -> Orders {
        match self {
            Self::Disable => Orders { away: "key disabled", back: "key enabled" },
            Self::Deletion => {
                Orders { away: "deletion scheduled", back: "cancelled, and key enabled" }
            }
            Self::Permission => Orders { away: "permission taken", back: "permission given back" },
        }
    }
}
