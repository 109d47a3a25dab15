//! Heartbeats that the mounts of a machine share, where they would ask the same of the KMS: whoever
//! is due first asks, and tells the others through a small file that each reads when it is due
//! itself.
//!
//! Only good answers are shared. A mount that finds none that is recent asks for itself: a refusal
//! is met by each on its own, and as soon as if nothing were shared. That one is asking, or that the
//! file's disk hangs, holds the others up for [`CLAIM`] at most, and beats are so much closer.
//!
//! What is trusted is a file of the same user's, in a folder that no other user can enter.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::clock::Moment;
use crate::kms::{KeyArn, KeyRef};
use crate::threads::{Role, spawn};

/// That somebody is asking counts for so long, and no file is waited for longer.
pub(super) const CLAIM: Duration = Duration::from_millis(250);

/// Where beats are shared, and between whom.
#[derive(Clone, Debug)]
pub struct SharedBeats {
    folder: PathBuf,
    caller: String,
}

/// What a beat asks the KMS for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    /// The master keys that are to decrypt.
    pub(super) decrypting: Vec<KeyArn>,
    /// By which name which master key is to make a data key, where one is made. An alias may move.
    pub(super) making: Option<(KeyRef, KeyArn)>,
}

/// What a mount whose beat is due does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It asks the KMS.
    Ask,
    /// Somebody is asking: it looks again soon.
    Wait,
    /// Somebody's beat that began then was good.
    Heard(Moment),
}

/// Whose turn it is when a mount's beat is due. The monitor looks at no file: a thread of its own
/// does.
pub(super) struct Turns {
    beats: Arc<SharedBeats>,
    /// Since when a beat has been due.
    due: Option<Moment>,
    look: Option<Receiver<Turn>>,
}

impl Turns {
    pub(super) fn new(beats: SharedBeats) -> Self {
        Self { beats: Arc::new(beats), due: None, look: None }
    }

    /// What is told of a good beat.
    pub(super) fn beats(&self) -> Arc<SharedBeats> {
        self.beats.clone()
    }

    /// What a mount does whose beat is due. To be asked again soon where it waits.
    pub(super) fn take(
        &mut self,
        subject: impl FnOnce() -> Subject,
        (now, last): (Moment, Moment),
        apart: Duration,
    ) -> Turn {
        let due = *self.due.get_or_insert(now);
        let look = || look(self.beats.clone(), subject(), (now, last), apart);
        let turn = match self.look.get_or_insert_with(look).try_recv() {
            _ if now.since(due) >= CLAIM => Turn::Ask,
            Ok(turn) => turn,
            Err(TryRecvError::Empty) => return Turn::Wait,
            // There was no thread to be had.
            Err(TryRecvError::Disconnected) => Turn::Ask,
        };
        self.look = None;
        if turn != Turn::Wait {
            self.due = None;
        }
        turn
    }
}

fn look(
    beats: Arc<SharedBeats>,
    subject: Subject,
    times: (Moment, Moment),
    apart: Duration,
) -> Receiver<Turn> {
    let (found, turn) = channel();
    let look = move || {
        let turn = beats.turn(&subject, times, apart).unwrap_or_else(|e| {
            log::warn!("heartbeats are not shared: {e}");
            Turn::Ask
        });
        // The monitor may not have waited.
        let _ = found.send(turn);
    };
    if let Err(e) = spawn(Role::Beat, look) {
        log::error!("cannot start a thread to share a heartbeat: {e}");
    }
    turn
}

/// The places in the file of two moments, each followed by its complement: what was half written
/// says nothing.
#[derive(Clone, Copy)]
enum Note {
    /// When somebody began to ask.
    Claim = 0,
    /// When the last good beat began.
    Good = 16,
}

impl SharedBeats {
    /// Between the mounts of this user's that know each other by a file in `folder`. `caller` says
    /// which KMS is asked, and as whom: others have files of their own.
    pub fn new(folder: PathBuf, caller: &str) -> Self {
        // Moments count from the boot, and the folder may outlast it.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { folder, caller: format!("{boot}{caller}") }
    }

    fn open(&self, subject: &Subject) -> io::Result<File> {
        // No name of a key has a line break.
        let decrypting: String = subject.decrypting.iter().map(|key| format!("{key}\n")).collect();
        let making = subject.making.as_ref().map(|(asked, key)| format!("{asked}\n{key}\n"));
        let making = making.unwrap_or_default();
        let hash = Sha256::digest(format!("{}\n\n{decrypting}\n{making}", self.caller));
        let name = data_encoding::HEXLOWER.encode(&hash[..16]);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(libc::O_NOFOLLOW).open(self.folder.join(format!("{name}.beat")))
    }

    /// What a mount does whose beat is due now, where good ones are so far apart, and it knows of
    /// one that began at `last`.
    ///
    /// # Errors
    /// Of the file.
    pub(super) fn turn(
        &self,
        subject: &Subject,
        (now, last): (Moment, Moment),
        apart: Duration,
    ) -> io::Result<Turn> {
        let file = self.open(subject)?;
        let good = read(&file, Note::Good, now)?;
        if let Some(good) = good.filter(|good| *good > last && now.since(*good) < apart) {
            return Ok(Turn::Heard(good));
        }
        if read(&file, Note::Claim, now)?.is_some_and(|claim| now.since(claim) < CLAIM) {
            return Ok(Turn::Wait);
        }
        // Two may come to this at once, and both ask: no harm is done.
        write(&file, Note::Claim, now).map(|()| Turn::Ask)
    }

    /// Tells the others that a beat was good.
    ///
    /// # Errors
    /// Of the file.
    pub(super) fn tell(&self, subject: &Subject, began: Moment) -> io::Result<()> {
        let file = self.open(subject)?;
        match read(&file, Note::Good, Moment::now())? {
            Some(later) if later >= began => Ok(()),
            _ => write(&file, Note::Good, began),
        }
    }
}

/// A moment that was noted; `None` where there is none, or it lies ahead.
fn read(file: &File, note: Note, now: Moment) -> io::Result<Option<Moment>> {
    let mut bytes = [0; 16];
    match file.read_exact_at(&mut bytes, note as u64) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let both = u128::from_le_bytes(bytes);
    let (nanos, complement) = (both as u64, (both >> 64) as u64);
    let moment = Moment(Duration::from_nanos(nanos));
    Ok((complement == !nanos && moment <= now).then_some(moment))
}

fn write(file: &File, note: Note, moment: Moment) -> io::Result<()> {
    let nanos = u64::try_from(moment.0.as_nanos()).unwrap_or(0);
    let both = u128::from(!nanos) << 64 | u128::from(nanos);
    file.write_all_at(&both.to_le_bytes(), note as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const APART: Duration = Duration::from_secs(7);

    fn at(millis: u64) -> Moment {
        Moment(Duration::from_millis(millis))
    }

    fn of(key: &str) -> Subject {
        by_name(key, "alias")
    }

    fn by_name(key: &str, name: &str) -> Subject {
        let key = KeyArn(key.to_owned());
        Subject { decrypting: vec![key.clone()], making: Some((KeyRef(name.to_owned()), key)) }
    }

    #[test]
    fn one_asks_and_the_others_hear_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let [one, two] = [(); 2].map(|()| SharedBeats::new(folder.path().into(), "me"));
        let turn =
            |who: &SharedBeats, now| who.turn(&of("key"), (now, at(0)), APART).expect("a file");
        assert_eq!(turn(&one, at(10_000)), Turn::Ask);
        assert_eq!(turn(&two, at(10_050)), Turn::Wait, "one is asking");
        one.tell(&of("key"), at(10_000)).expect("told");
        assert_eq!(turn(&two, at(10_100)), Turn::Heard(at(10_000)));
        assert_eq!(turn(&two, at(16_999)), Turn::Heard(at(10_000)));
        assert_eq!(turn(&two, at(17_000)), Turn::Ask, "that was too long ago");
        // It hangs, or is dead.
        assert_eq!(turn(&one, at(17_249)), Turn::Wait);
        assert_eq!(turn(&one, at(17_250)), Turn::Ask);
        // An answer that came late says nothing of the time since.
        one.tell(&of("key"), at(17_250)).expect("told");
        two.tell(&of("key"), at(17_000)).expect("told");
        assert_eq!(turn(&two, at(17_300)), Turn::Heard(at(17_250)));
        // It is no news to who knows of it.
        let known = one.turn(&of("key"), (at(18_000), at(17_250)), APART).expect("a file");
        assert_eq!(known, Turn::Ask);
    }

    #[test]
    fn without_a_file_each_asks_for_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut turns = Turns::new(SharedBeats::new(folder.path().join("absent"), "me"));
        let mut turn = || turns.take(|| of("key"), (at(10_000), at(0)), APART);
        let found = std::iter::repeat_with(|| (turn(), std::thread::yield_now()));
        let found = found.map(|(turn, ())| turn).find(|turn| *turn != Turn::Wait);
        assert_eq!(found, Some(Turn::Ask));
    }

    #[test]
    fn a_disk_that_hangs_delays_a_beat_by_no_more_than_a_claim() {
        let mut turns = Turns::new(SharedBeats::new("absent".into(), "me"));
        let (_hangs, nothing) = channel();
        turns.look = Some(nothing);
        let mut turn = |now| turns.take(|| of("key"), (now, at(0)), APART);
        assert_eq!(turn(at(10_000)), Turn::Wait);
        assert_eq!(turn(at(10_249)), Turn::Wait);
        assert_eq!(turn(at(10_250)), Turn::Ask);
    }

    #[test]
    fn who_would_ask_something_else_hears_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let by = |caller| SharedBeats::new(folder.path().into(), caller);
        let key = KeyArn("key".to_owned());
        by("me").tell(&of("key"), at(1000)).expect("told");
        let reading = Subject { decrypting: vec![key.clone()], making: None };
        let both = Subject { decrypting: vec![key, KeyArn("old".into())], ..of("key") };
        let other_name = by_name("key", "other");
        for (who, subject) in [
            ("you", of("key")),
            ("me", of("other")),
            ("me", reading),
            ("me", both),
            ("me", other_name),
        ] {
            let turn = by(who).turn(&subject, (at(1001), at(0)), APART).expect("a file");
            assert_eq!(turn, Turn::Ask, "{who}, {subject:?}");
        }
        let turn = by("me").turn(&of("key"), (at(1001), at(0)), APART).expect("a file");
        assert_eq!(turn, Turn::Heard(at(1000)));
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let folder = tempfile::tempdir().expect("a folder");
        let beats = SharedBeats::new(folder.path().into(), "me");
        let file = beats.open(&of("key")).expect("a file");
        let turn = |now| beats.turn(&of("key"), (now, at(0)), APART).expect("a file");
        // Of the time before a boot, or of another clock.
        write(&file, Note::Good, at(5000)).expect("written");
        write(&file, Note::Claim, at(5000)).expect("written");
        assert_eq!(turn(at(4000)), Turn::Ask);
        // Half written.
        file.write_all_at(&at(3999).0.as_nanos().to_le_bytes()[..8], 16).expect("written");
        assert_eq!(turn(at(4300)), Turn::Ask);
        file.set_len(20).expect("cut");
        assert_eq!(turn(at(4600)), Turn::Ask);
    }
}
