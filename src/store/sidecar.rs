//! Sidecar pages: the wrapped data keys of up to 64 files, one JSON line a file.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::volume_file::parse_wrapped;
use crate::ids::{BranchId, SLOTS};
use crate::kms::{KeyArn, Wrapped};

/// What wrapped a data key. A hint: the key it names is never trusted, only the check is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WrapKind {
    /// The KMS, under this master key.
    Master(KeyArn),
    /// A branch key.
    Branch(BranchId),
}

/// One file's wrapped data key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The file's slot on the page.
    pub slot: u16,
    /// What wrapped the key.
    pub kind: WrapKind,
    /// The wrapped data key.
    pub key: Wrapped,
    /// The data key once more, for the recovery; of a line that the KMS wrapped alone.
    pub second: Option<SecondWrap>,
    /// Derived from the data key: verified at every unwrap.
    pub check: [u8; 32],
}

/// A data key under a branch key that the recipients of the recovery alone can open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondWrap {
    /// The branch key.
    pub branch: BranchId,
    /// The data key under it.
    pub key: Wrapped,
}

/// A line that is not what `encode` makes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged sidecar line: {0}")]
pub struct DamagedLine(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    slot: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    master: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    branch: Option<String>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_key: Option<String>,
    check: String,
}

impl Line {
    /// The line's one spelling, without its newline.
    pub fn encode(&self) -> Vec<u8> {
        let (master, branch) = match &self.kind {
            WrapKind::Master(arn) => (Some(arn.0.clone()), None),
            WrapKind::Branch(id) => (None, Some(id.to_string())),
        };
        let text = Text {
            slot: self.slot,
            master,
            branch,
            key: BASE64.encode(&self.key.0),
            recovery: self.second.as_ref().map(|second| second.branch.to_string()),
            recovery_key: self.second.as_ref().map(|second| BASE64.encode(&second.key.0)),
            check: HEXLOWER.encode(&self.check),
        };
        serde_json::to_vec(&text).expect("strings and numbers have a JSON form")
    }

    /// Reads exactly what [`Line::encode`] writes.
    ///
    /// # Errors
    /// [`DamagedLine`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DamagedLine> {
        let bad = |why: &str| DamagedLine(why.to_owned());
        let text: Text = serde_json::from_slice(bytes).map_err(|e| DamagedLine(e.to_string()))?;
        let kind = match (text.master, text.branch) {
            (Some(arn), None) => WrapKind::Master(KeyArn::parse(arn).map_err(DamagedLine)?),
            (None, Some(id)) => {
                WrapKind::Branch(BranchId::parse(&id).map_err(|e| DamagedLine(e.to_string()))?)
            }
            _ => return Err(bad("neither one master key nor one branch key")),
        };
        let second = match (text.recovery, text.recovery_key, &kind) {
            (None, None, _) => None,
            (Some(id), Some(key), WrapKind::Master(_)) => Some(SecondWrap {
                branch: BranchId::parse(&id).map_err(|e| DamagedLine(e.to_string()))?,
                key: parse_wrapped(&key).map_err(DamagedLine)?,
            }),
            _ => return Err(bad("half a second wrap, or one of a key under a branch key")),
        };
        let check = HEXLOWER
            .decode(text.check.as_bytes())
            .ok()
            .and_then(|c| c.try_into().ok())
            .ok_or_else(|| bad("check: not 64 hex digits"))?;
        let key = parse_wrapped(&text.key).map_err(DamagedLine)?;
        let line = Self { slot: text.slot, kind, key, second, check };
        if line.slot >= SLOTS || line.encode() != bytes {
            return Err(bad("not in its one spelling"));
        }
        Ok(line)
    }
}

/// A sidecar page: its lines in order, each kept byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page(Vec<Vec<u8>>);

impl Page {
    /// A page of these lines.
    pub fn of(lines: &[Line]) -> Self {
        Self(lines.iter().map(Line::encode).collect())
    }

    /// The page's bytes: each line and a newline.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect()
    }

    /// Splits a page. It cannot fail: a damaged line costs one file, not the page.
    pub fn parse(bytes: &[u8]) -> Self {
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if body.is_empty() {
            return Self::default();
        }
        Self(body.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect())
    }

    /// Every line that can be read.
    pub fn readable(&self) -> impl Iterator<Item = Line> {
        self.0.iter().filter_map(|l| Line::parse(l).ok())
    }

    /// Removes the lines of slots that `gone` names; damaged lines stay.
    pub fn remove(&mut self, gone: impl Fn(u16) -> bool) {
        self.0.retain(|l| !Line::parse(l).is_ok_and(|l| gone(l.slot)));
    }

    /// Puts `new` in the place of `old`, where the page still has it byte for byte. Says whether
    /// it did.
    pub fn replace(&mut self, old: &Line, new: &Line) -> bool {
        let bytes = old.encode();
        let place = self.0.iter_mut().find(|line| **line == bytes);
        place.map(|line| *line = new.encode()).is_some()
    }

    /// Lines that cannot be read.
    pub fn damaged(&self) -> usize {
        self.0.iter().filter(|l| Line::parse(l).is_err()).count()
    }

    /// Whether no line is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(slot: u16) -> Line {
        Line {
            slot,
            kind: WrapKind::Master(KeyArn("arn:k".to_owned())),
            key: Wrapped(vec![7; 100]),
            second: None,
            check: [1; 32],
        }
    }

    fn line_with_second(slot: u16) -> Line {
        let second = SecondWrap { branch: BranchId([3; 16]), key: Wrapped(vec![4; 60]) };
        Line { second: Some(second), ..line(slot) }
    }

    #[test]
    fn a_damaged_line_costs_one_file_and_is_kept() {
        let mut bytes = Page::of(&[line(0), line(1)]).encode();
        bytes[3] ^= 1;
        let mut page = Page::parse(&bytes);
        assert_eq!(page.encode(), bytes);
        assert_eq!(page.readable().collect::<Vec<_>>(), vec![line(1)]);
        page.remove(|s| s == 1);
        assert!(!page.is_empty());
    }

    #[test]
    fn a_line_is_replaced_only_while_it_is_what_was_read() {
        let mut bytes = Page::of(&[line(0), line(1), line(2)]).encode();
        bytes[3] ^= 1;
        let mut page = Page::parse(&bytes);
        let new = Line { key: Wrapped(vec![8; 90]), ..line(1) };
        assert!(page.replace(&line(1), &new));
        assert_eq!(page.readable().collect::<Vec<_>>(), vec![new.clone(), line(2)]);
        assert!(!page.replace(&line(1), &line(5)), "it is another line by now");
        page.remove(|slot| slot == 2);
        let before = page.clone();
        assert!(!page.replace(&line(2), &new), "a line that is gone does not come back");
        assert_eq!(page, before);
        assert_eq!(page.damaged(), 1);
        assert!(page.encode().starts_with(&bytes[..20]), "damaged lines stay as they are");
    }

    #[test]
    fn every_flipped_byte_of_a_line_is_seen() {
        for line in [line(5), line_with_second(5)] {
            let bytes = line.encode();
            assert_eq!(Line::parse(&bytes), Ok(line.clone()));
            for i in 0..bytes.len() {
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[i] ^= 1 << bit;
                    assert_ne!(Line::parse(&flipped).ok(), Some(line.clone()), "{i} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_second_wrap_is_whole_and_beside_the_kms_alone() {
        let whole = String::from_utf8(line_with_second(5).encode()).expect("text");
        let branch = format!("\"recovery\":\"{}\",", BranchId([3; 16]));
        assert!(whole.contains(&branch), "{whole}");
        assert!(Line::parse(whole.replace(&branch, "").as_bytes()).is_err());
        let kind = WrapKind::Branch(BranchId([9; 16]));
        let under_a_branch = Line { kind, ..line_with_second(5) };
        assert!(Line::parse(&under_a_branch.encode()).is_err());
    }
}
