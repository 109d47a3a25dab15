//! What is found: where, what, and whether it matters.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::fs::Errno;
use crate::ids::{BranchId, LinkId};
use crate::kms::KeyArn;

/// Whether a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data that cannot be read, or what only an attacker or a broken disk makes.
    Damage,
    /// Harmless: what a power cut or a kill leaves, or what is not of this format.
    Leftover,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Damage => "damage",
            Self::Leftover => "leftover",
        }
    }
}

/// Where something was found. As text it is escaped: no byte of a name reaches a terminal that
/// would not print as itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A path in the mount; begins with a slash.
    Mount(PathBuf),
    /// A path in the store, whose name in the mount is not known; begins without one.
    Store(PathBuf),
}

impl Place {
    /// `mount` or `store`: what the path lies in.
    pub fn within(&self) -> &'static str {
        match self {
            Self::Mount(_) => "mount",
            Self::Store(_) => "store",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Mount(path) | Self::Store(path)) = self;
        match path.as_os_str().is_empty() {
            true => f.write_str("."),
            false => escape(path, f),
        }
    }
}

/// Writes a path with everything escaped but what prints as itself: control characters,
/// unassigned and formatting ones (which can turn the direction of text), and what is not UTF-8.
fn escape(path: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => write!(f, "{c}")?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        chunk.invalid().iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
    }
    Ok(())
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// Other first bytes.
    #[error("it is not one")]
    Magic,
    /// Of another version.
    #[error("version {0} is not known")]
    Version(u8),
    /// Of another cipher suite.
    #[error("suite {0} is not known")]
    Suite(u8),
    /// With flags that no version has.
    #[error("flags {0:#06x} are not known")]
    Flags(u16),
}

/// Why there is no key for a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// There is no line for it.
    #[error("its wrapped key is missing")]
    NoLine,
    /// The line's master key is not of the volume's keystore, or of its account and region; or
    /// it is not the present one where only that counts.
    #[error("its wrapped key is under {0}, which is not accepted")]
    NotAccepted(Text),
    /// The KMS refuses the line's master key, and not the volume's.
    #[error("the KMS refuses {0}, which its wrapped key is under")]
    Refused(Text),
    /// The branch key is missing, damaged, or does not open the line.
    #[error("branch key {0} does not open its wrapped key")]
    Branch(BranchId),
    /// What the KMS gives, if it gives a key, is not this file's.
    #[error("its wrapped key does not open, or opens to another file's key")]
    Wrong,
    /// The page of its line cannot be read.
    #[error("its wrapped key cannot be read: {}", shown(.0))]
    Unreadable(Errno),
}

/// A text that the store's bytes gave. Shown, it is escaped as a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(pub OsString);

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(Path::new(&self.0), f)
    }
}

impl From<&KeyArn> for Text {
    fn from(arn: &KeyArn) -> Self {
        Self(arn.0.clone().into())
    }
}

/// The errno of the backing filesystem. Our own checks alone have none: something is too long for
/// what it is.
pub(super) fn errno(e: &io::Error) -> Errno {
    Errno(e.raw_os_error().unwrap_or(libc::EFBIG))
}

fn shown(e: &Errno) -> io::Error {
    io::Error::from_raw_os_error(e.0)
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A copy of `volume.json` is missing that no power cut takes away.
    #[error("it is missing")]
    CopyMissing,
    /// The second copy is missing: a power cut during `init` may leave that.
    #[error("the second copy is missing")]
    SecondMissing,
    /// A copy is not what a writer makes.
    #[error("{0}")]
    CopyDamaged(Text),
    /// A copy does not open, or its MAC is another.
    #[error("it does not open, and the other copy does")]
    CopyWrong,
    /// The second copy is another than the first, and older: a rewrap was cut short.
    #[error("the second copy is of before a rewrap")]
    SecondOld,
    /// Both copies open, and name different keystores, regions or keys.
    #[error("the two copies differ, and both open: see which is right")]
    CopiesDiffer,
    /// The canary does not open: a mount ends at once.
    #[error("what each heartbeat has unwrapped does not open: no mount stays open")]
    Canary,
    /// Nothing proves where new data keys come from: a mount wants to be told.
    #[error("nothing proves where new data keys come from: no mount takes it without --master-key")]
    Unproven,
    /// A folder of the store is missing.
    #[error("the folder is missing")]
    NoFolder,
    /// A replacement that was cut short.
    #[error("a temporary file")]
    Temporary,
    /// Something that this format does not know.
    #[error("it is not of this format")]
    UnknownEntry,
    /// In the tree, what no mount has made: neither its name nor what it is.
    #[error("it is not of this volume, and its folder cannot be removed through a mount")]
    Stranger,
    /// The backing filesystem does not give it.
    #[error("it cannot be read: {}", shown(.0))]
    Unreadable(Errno),
    /// The backing filesystem does not give some of a file's content; the rest is checked.
    #[error("from offset {offset} it cannot be read: {}", shown(.why))]
    UnreadableFrom {
        /// Where the first content begins that it does not give.
        offset: u64,
        /// Why.
        why: Errno,
    },
    /// Lines of a page that do not parse.
    #[error("{0} damaged lines")]
    BadLines(usize),
    /// Several lines for one slot.
    #[error("several lines for slot {0}")]
    SameSlot(u16),
    /// Lines that no file's header says.
    #[error("{0} wrapped keys of no file")]
    UnusedLines(usize),
    /// A page without a line.
    #[error("a page without a line")]
    EmptyPage,
    /// A branch file that a line needs is missing.
    #[error("the branch key is missing")]
    NoBranch,
    /// A branch file does not parse.
    #[error("the branch key is damaged")]
    BadBranch,
    /// A branch key that the recipients of the recovery cannot open, or that somebody else sealed.
    #[error("the branch key is not sealed to the recipients of the recovery, or was changed")]
    NotSealed,
    /// Lines without what a recovery opens.
    #[error("{0} wrapped keys without a second wrap for the recovery")]
    NoSecond(usize),
    /// A branch key that no line of a file says.
    #[error("a branch key of no file")]
    UnusedBranch,
    /// A body that no symlink leads to.
    #[error("the body of no symlink")]
    UnusedBody,
    /// A name that is none of its directory, or is in another spelling.
    #[error("the name does not decrypt in this directory")]
    BadName,
    /// `+HASH` without `+HASH.name`.
    #[error("the record of its long name is missing")]
    NoRecord,
    /// `+HASH.name` without `+HASH`.
    #[error("the record of a long name without its entry")]
    UnusedRecord,
    /// A directory with entries and without an id.
    #[error("the directory's id is missing: no name in it decrypts")]
    NoDirId,
    /// A directory whose id is none.
    #[error("the directory's id is damaged: no name in it decrypts")]
    BadDirId,
    /// An empty directory without an id.
    #[error("an empty directory without its id")]
    FreshDir,
    /// Two directories, or two files, with one id.
    #[error("its id is that of another, too: one is a copy made in the store")]
    DuplicateId,
    /// Another filesystem is mounted over it.
    #[error("it lies on another device")]
    OtherDevice,
    /// The header is not one.
    #[error("its header is damaged: {0}")]
    Header(BadHeader),
    /// Records, and no header.
    #[error("it has records and no header; a power cut does that to a file that was never synced")]
    NoHeader,
    /// A size that no finished operation leaves.
    #[error("a change of its size was cut short: it ends between the old and the new")]
    Size,
    /// There is no key for it.
    #[error(transparent)]
    Key(NoKey),
    /// Records fail authentication.
    #[error("{count} records fail authentication, the first is {first} (offset {offset})")]
    Records {
        /// How many.
        count: u64,
        /// The first.
        first: u64,
        /// Where its content begins in the file.
        offset: u64,
    },
    /// A symlink's text or body is not a target of this volume.
    #[error("its target does not decrypt")]
    Target,
    /// A symlink's body is missing.
    #[error("the body {0} of its target is missing")]
    NoBody(LinkId),
    /// An attribute does not decrypt.
    #[error("its attribute {0} does not decrypt")]
    Xattr(Text),
    /// There are attributes apart from the attribute block, and there is none.
    #[error("it has attributes, but no attribute block says so")]
    NoXattrBlock,
    /// The attribute block says otherwise than an attribute that lies apart from it.
    #[error("its attribute {0} is not seen in a mount, for the attribute block says otherwise")]
    HiddenXattr(Text),
    /// An attribute that was not written through a mount.
    #[error("its attribute {0} was not written through a mount, and is not seen there")]
    ForeignXattr(Text),
}

impl Problem {
    /// Whether it matters.
    pub fn kind(&self) -> Kind {
        match self {
            Self::SecondMissing
            | Self::SecondOld
            | Self::Temporary
            | Self::UnknownEntry
            | Self::Stranger
            | Self::UnusedLines(_)
            | Self::EmptyPage
            | Self::UnusedBranch
            | Self::UnusedBody
            | Self::UnusedRecord
            | Self::FreshDir
            | Self::Size
            | Self::HiddenXattr(_)
            | Self::ForeignXattr(_) => Kind::Leftover,
            _ => Kind::Damage,
        }
    }

    /// A word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::CopyMissing => "volume-missing",
            Self::SecondMissing => "volume-copy-missing",
            Self::CopyDamaged(_) => "volume-damaged",
            Self::CopyWrong => "volume-wrong",
            Self::SecondOld => "volume-copy-old",
            Self::CopiesDiffer => "volume-copies-differ",
            Self::Canary => "canary",
            Self::Unproven => "volume-unproven",
            Self::NoFolder => "folder-missing",
            Self::Temporary => "temporary-file",
            Self::UnknownEntry => "unknown-entry",
            Self::Stranger => "stranger",
            Self::Unreadable(_) | Self::UnreadableFrom { .. } => "unreadable",
            Self::BadLines(_) => "lines-damaged",
            Self::SameSlot(_) => "lines-same-slot",
            Self::UnusedLines(_) => "lines-unused",
            Self::EmptyPage => "page-empty",
            Self::NoBranch => "branch-missing",
            Self::BadBranch => "branch-damaged",
            Self::NotSealed => "branch-unrecoverable",
            Self::NoSecond(_) => "lines-unrecoverable",
            Self::UnusedBranch => "branch-unused",
            Self::UnusedBody => "link-body-unused",
            Self::BadName => "name",
            Self::NoRecord => "name-record-missing",
            Self::UnusedRecord => "name-record-unused",
            Self::NoDirId => "directory-id-missing",
            Self::BadDirId => "directory-id-damaged",
            Self::FreshDir => "directory-fresh",
            Self::DuplicateId => "id-twice",
            Self::OtherDevice => "other-device",
            Self::Header(_) => "header",
            Self::NoHeader => "header-missing",
            Self::Size => "size",
            Self::Key(_) => "key",
            Self::Records { .. } => "records",
            Self::Target => "link-target",
            Self::NoBody(_) => "link-body-missing",
            Self::Xattr(_) => "attribute",
            Self::NoXattrBlock => "attribute-block-missing",
            Self::HiddenXattr(_) => "attribute-hidden",
            Self::ForeignXattr(_) => "attribute-unknown",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub what: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8}  {}: {}", self.what.kind().name(), self.place, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_name_plays_no_tricks_on_a_terminal() {
        let name = "/d\u{e9}j\u{e0} vu/it's\u{1b}[2J\n\u{202e}x\\";
        let mut bytes = name.as_bytes().to_vec();
        bytes.extend(b"\xff\x9b1m");
        let place = Place::Mount(PathBuf::from(OsStr::from_bytes(&bytes)));
        let shown = "/déjà vu/it's\\u{1b}[2J\\n\\u{202e}x\\\\\\xff\\x9b1m";
        assert_eq!(place.to_string(), shown);
        assert!(place.to_string().chars().all(|c| !c.is_control()));
        assert_eq!(Place::Store(PathBuf::new()).to_string(), ".");
        let key = NoKey::NotAccepted(Text::from(&KeyArn("\u{1b}c".to_owned())));
        assert!(key.to_string().contains("under \\u{1b}c,"));
    }
}
