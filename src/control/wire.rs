//! What is said over the socket: one line of JSON asks, one answers.
//!
//! An operator has to reach a mount whose daemon is of another version, so this grows and does
//! not change. What is not known is ignored, what is missing has a default, and these stay as
//! they are for good: the words of [`Ask`] and [`Answer`], and of a report `state`, `mountpoint`,
//! `store` and `volume`.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::Report;

/// The version of what is said. It tells who reads a line what to expect; nothing is refused
/// for it.
const VERSION: u32 = 1;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "ask")]
pub enum Ask {
    /// A [`Report`].
    Status,
    /// The figures of the mount, as monitoring reads them.
    Metrics,
    /// An operator's lock.
    Lock,
    /// Its end.
    Unlock,
    /// The removal of a file's wrapped key.
    Shred {
        /// Its inode number.
        inode: u64,
    },
    /// That a rewrapped `volume.json` is taken over now, where it says just this.
    Follow {
        /// What new data keys are asked of.
        #[serde(default)]
        asked: String,
        /// The master key that they come under.
        #[serde(default)]
        master: String,
    },
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    /// To `Status`.
    Report {
        /// Where things stand.
        #[serde(deserialize_with = "as_far_as_known")]
        report: Box<Report>,
    },
    /// To `Metrics`.
    Metrics {
        /// In Prometheus's text format.
        text: String,
    },
    /// It is done, or under way.
    Done,
    /// It cannot be.
    Failed {
        /// Why.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    #[serde(default)]
    version: u32,
    #[serde(flatten)]
    said: T,
}

/// A line that says it.
pub(super) fn write<T: Serialize>(said: T) -> Vec<u8> {
    let line = Line { version: VERSION, said };
    let mut text = serde_json::to_vec(&line).expect("strings and numbers have a JSON form");
    text.push(b'\n');
    text
}

/// What a line says.
pub(super) fn read<T: for<'a> Deserialize<'a>>(line: &str) -> serde_json::Result<T> {
    Ok(serde_json::from_str::<Line<T>>(line)?.said)
}

/// Every field that is known and has the form that is known; the others have their defaults.
fn as_far_as_known<'de, D: Deserializer<'de>>(from: D) -> Result<Box<Report>, D::Error> {
    let said = Map::deserialize(from)?;
    let mut known = Map::new();
    for (name, value) in said {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        if serde_json::from_value::<Report>(Value::Object(alone)).is_ok() {
            known.insert(name, value);
        }
    }
    serde_json::from_value(Value::Object(known)).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_version_asks_is_understood() {
        for line in [
            r#"{"ask":"lock"}"#,
            r#"{"ask":"lock","version":1}"#,
            r#"{"version":9,"ask":"lock","patience":{"ms":5},"because":[1]}"#,
        ] {
            assert_eq!(read::<Ask>(line).expect("understood"), Ask::Lock, "{line}");
        }
        let shred = read::<Ask>(r#"{"version":9,"ask":"shred","inode":7,"passes":3}"#);
        assert_eq!(shred.expect("understood"), Ask::Shred { inode: 7 });
        assert!(read::<Ask>(r#"{"version":9,"ask":"dance"}"#).is_err());
    }

    #[test]
    fn what_another_version_answers_is_taken_as_far_as_it_is_known() {
        let line = r#"{"version":9,"answer":"report","mood":"good","report":{"state":"revoked",
            "mountpoint":"/m","volume":"v","beats":"many","keys":{"cached":3},"lines":7}}"#;
        let Ok(Answer::Report { report }) = read::<Answer>(line) else { panic!("understood") };
        assert_eq!((report.state.as_str(), report.mountpoint.as_str()), ("revoked", "/m"));
        assert_eq!((report.volume.as_str(), report.beats), ("v", 0));
        assert!(report.lines.is_none());
        let done = read::<Answer>(r#"{"answer":"done","after_ms":5}"#);
        assert!(matches!(done, Ok(Answer::Done)));
    }

    #[test]
    fn what_is_written_is_read() {
        let report = Box::new(Report { state: "open".to_owned(), beats: 7, ..Report::default() });
        let line = String::from_utf8(write(Answer::Report { report })).expect("text");
        let Ok(Answer::Report { report }) = read::<Answer>(&line) else { panic!("understood") };
        assert_eq!((report.state.as_str(), report.beats), ("open", 7));
        assert!(line.starts_with(r#"{"version":1,"answer":"report","report":{"#), "{line}");
    }
}
