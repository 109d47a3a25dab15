//! The keyring without its threads.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use parking_lot::Mutex;

use super::branch::BranchKey;
use super::fixture::{Around, Says, branch_volume, keyring, keyring_over, kms, volume};
use super::pool::{Disk, NoKeys, fill_on};
use super::{Answer, KeyFail, KeyRequest, Keyring, Phase, Reason, Ticket, fetch};
use crate::clock::Moment;
use crate::content::check;
use crate::disk::sim::Sim;
use crate::ids::{BranchId, FileId, PageId};
use crate::kms::{Context, Counted, Counters, KeyArn, KeyService, KmsError, Unwrapped, Verdict};
use crate::secret::Key;
use crate::store::{BranchFile, Line, Page, Store, WrapKind};

/// A writer found the pool empty; before it registered its waker the pool was filled, and
/// answered all who waited by then. Nobody woke the writer, whose request ended after four
/// seconds with EKEYEXPIRED.
#[test]
fn who_asks_for_a_fresh_key_after_the_pool_was_filled_is_answered_at_once() {
    let keyring = keyring(kms());
    assert_eq!(keyring.fresh().err(), Some(KeyFail::NotCached(KeyRequest::Fresh)));
    keyring.supply(KeyRequest::Fresh).expect("filled");
    let ticket = keyring.answers().ticket();
    keyring.wait_for(KeyRequest::Fresh, ticket);
    assert_eq!(keyring.answers().take(), [Answer::Outcome(ticket, Ok(()))]);
    assert!(keyring.fresh().is_ok());
}

/// A sidecar page that found no space was told as a key whose time is up.
#[test]
fn a_full_disk_under_the_sidecars_is_told_as_one() {
    let disk = volume();
    let keyring = keyring_over(&disk, kms());
    disk.limit_space(Some(0));
    assert_eq!(keyring.supply(KeyRequest::Fresh), Err(KeyFail::Disk(libc::ENOSPC)));
    disk.limit_space(None);
    assert_eq!(keyring.supply(KeyRequest::Fresh), Ok(()));
    assert!(keyring.fresh().is_ok());
}

/// On a disk that took nothing the pool had a key made every two seconds, for nothing.
#[test]
fn a_disk_that_took_no_page_is_tried_before_the_kms_is_asked() {
    let disk = volume();
    let (keyring, counters) = counted(&disk);
    disk.limit_space(Some(0));
    let before = calls(&counters);
    let full =
        |done| matches!(done, Err(NoKeys::Disk(e)) if e.raw_os_error() == Some(libc::ENOSPC));
    assert!(full(fill_on(&keyring, 1, Disk::Failed)));
    assert_eq!(calls(&counters), before);
    assert!(full(fill_on(&keyring, 1, Disk::Works)));
    assert!(calls(&counters) > before);
    disk.limit_space(None);
    assert!(fill_on(&keyring, 1, Disk::Failed).is_ok());
    assert!(keyring.fresh().is_ok());
}

/// A file was open for writing while the mount was locked: its key was asked for at every tick,
/// each refusal asked for a beat, and each beat's answer for a tick. A hundred calls a second
/// went to a KMS that had said no.
#[test]
fn a_locked_mount_asks_for_no_keys_of_files_open_for_writing() {
    let keyring = keyring(kms());
    keyring.supply(KeyRequest::Fresh).expect("filled");
    let file = keyring.fresh().expect("filled").file();
    keyring.hold(file);
    let now = Moment::now();
    let queued = |at: Moment| {
        keyring.tick(at);
        keyring.files().take_queue().len()
    };
    assert_eq!(queued(now), 0, "it is at hand");
    keyring.gate().set(Phase::Locked(Reason::Refused));
    drop(keyring.wipe());
    assert_eq!(queued(now), 0, "locked");
    keyring.gate().set(Phase::Open);
    assert_eq!(queued(now), 1);
    assert_eq!(queued(now), 0, "asked for just now");
    assert_eq!(queued(now + Duration::from_secs(1)), 1, "not given");
}

/// A keyring on this volume, and what counts its calls.
fn counted(disk: &Sim) -> (Arc<Keyring>, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    (keyring_over(disk, Counted::new(kms(), &counters)), counters)
}

/// GenerateDataKey and Decrypt so far.
fn calls(counters: &Counters) -> (u64, u64) {
    let count = |name: &str| {
        counters.snapshot().iter().filter(|c| c.operation == name).map(|c| c.total()).sum()
    };
    (count("GenerateDataKey"), count("Decrypt"))
}

/// As many files with new keys.
fn files(keyring: &Keyring, n: usize) -> Vec<FileId> {
    let fresh = |_| loop {
        match keyring.fresh() {
            Ok(cipher) => return cipher.file(),
            Err(KeyFail::NotCached(want)) => keyring.supply(want).expect("the keystore answers"),
            Err(e) => panic!("{e}"),
        }
    };
    (0..n).map(fresh).collect()
}

fn read_all(keyring: &Keyring, files: &[FileId]) -> Vec<Result<(), KeyFail>> {
    files.iter().map(|file| keyring.supply(KeyRequest::File(*file))).collect()
}

/// The branch keys of these files' lines.
fn branches_of(store: &Store, files: &[FileId]) -> HashSet<BranchId> {
    let lines = |file: &FileId| {
        let page = store.read_page(file.page()).expect("readable").expect("there");
        page.readable().filter(|l| l.slot == file.slot()).collect::<Vec<_>>()
    };
    let branch = |kind| match kind {
        WrapKind::Branch(branch) => branch,
        WrapKind::Master(master) => panic!("under {master}"),
    };
    files.iter().flat_map(lines).map(|line| branch(line.kind)).collect()
}

/// The promise of the mode: a call to make some hundred keys, and one to have them again.
#[test]
fn a_branch_key_costs_one_call_for_all_of_its_files() {
    let disk = branch_volume();
    let (keyring, counters) = counted(&disk);
    let first = files(&keyring, 300);
    assert_eq!(calls(&counters), (1, 0));
    assert!(read_all(&keyring, &first).iter().all(Result::is_ok));
    assert_eq!(calls(&counters), (1, 0), "its own branch key is at hand");

    let (keyring, counters) = counted(&disk);
    assert!(read_all(&keyring, &first).iter().all(Result::is_ok));
    assert_eq!(calls(&counters), (0, 1));
    let second = files(&keyring, 20);
    assert_eq!(calls(&counters), (1, 1), "a branch key of an earlier mount wraps no more");
    let store = Store::open(disk.root()).expect("a store");
    let (one, two) = (branches_of(&store, &first), branches_of(&store, &second));
    assert!(one.len() == 1 && two.len() == 1 && one != two);
    let there: HashSet<_> = store.branches().expect("listed").into_iter().collect();
    assert_eq!(there, &one | &two);
}

/// Whatever a power cut leaves of new keys: where there is a line, there is its branch key.
#[test]
fn a_branch_key_is_durable_before_it_wraps_a_key() {
    let disk = branch_volume();
    let (keyring, _) = counted(&disk);
    disk.moments();
    let made = files(&keyring, 20);
    let mut lines = 0;
    for moment in disk.moments().iter().chain([&disk]) {
        for state in moment.crash().states(64, 0) {
            let store = Store::open(state.root()).expect("opened");
            for page in made.iter().map(FileId::page).collect::<HashSet<_>>() {
                let page = store.read_page(page).expect("readable").unwrap_or_default();
                for line in page.readable() {
                    let WrapKind::Branch(branch) = line.kind else { panic!("{:?}", line.kind) };
                    store.read_branch(branch).expect("a line leads to its branch key");
                    lines += 1;
                }
            }
        }
    }
    assert!(lines > 0, "some states have lines");
}

/// A branch file that is gone, damaged, foreign or another's costs its own files alone, and once
/// it is put right they are there, without a remount.
#[test]
fn a_bad_branch_file_costs_its_own_files_until_it_is_put_right() {
    let disk = branch_volume();
    let (old, new) = (files(&counted(&disk).0, 3), files(&counted(&disk).0, 3));
    let store = Store::open(disk.root()).expect("a store");
    let only = |files| branches_of(&store, files).into_iter().next().expect("one");
    let (bad, good) = (only(&old), only(&new));
    let file = store.read_branch(bad).expect("readable");
    let foreign = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let by = file.by_kms.clone().expect("by the KMS");
    let mut torn = by.key.clone();
    *torn.0.last_mut().expect("long") ^= 1;
    let torn = BranchFile::by_kms(by.master, torn);
    let foreign = BranchFile::by_kms(KeyArn(foreign.to_owned()), by.key);
    let cases = [(foreign, 0), (torn, 1), (store.read_branch(good).expect("readable"), 1)];
    for (written, decrypts) in cases {
        store.write_branch(bad, &written).expect("written");
        let (keyring, counters) = counted(&disk);
        assert_eq!(read_all(&keyring, &old), [Err(KeyFail::Rejected); 3]);
        assert_eq!(calls(&counters), (0, decrypts), "the KMS is not asked for each file");
        assert_eq!(read_all(&keyring, &new), [Ok(()); 3]);
        store.write_branch(bad, &file).expect("written");
        assert_eq!(read_all(&keyring, &old), [Ok(()); 3]);
    }
    let keys = disk.root().open_dir("keys".as_ref()).expect("a folder");
    let folder = keys.open_dir("branch".as_ref());
    folder.expect("a folder").unlink(bad.to_string().as_ref()).expect("removed");
    let (keyring, counters) = counted(&disk);
    assert_eq!(read_all(&keyring, &old), [Err(KeyFail::Rejected); 3]);
    assert_eq!(calls(&counters), (0, 0));
    assert_eq!(read_all(&keyring, &new), [Ok(()); 3]);
}

#[test]
fn what_the_kms_says_of_a_branch_key_holds_for_its_files() {
    let disk = branch_volume();
    let file = files(&counted(&disk).0, 1)[0];
    for (verdict, told) in [
        (Verdict::Refused, KeyFail::Closed(Reason::Refused)),
        (Verdict::Unavailable, KeyFail::Late),
        (Verdict::Credentials, KeyFail::Late),
        (Verdict::UnknownCaller, KeyFail::Late),
        (Verdict::ThisKey, KeyFail::Rejected),
    ] {
        let keyring = keyring_over(&disk, Arc::new(Says { verdict, code: "Code", calls: 1 }));
        assert_eq!(keyring.supply(KeyRequest::File(file)), Err(told), "{verdict:?}");
    }
}

/// Calls for branch keys went on as before.
#[test]
fn a_kms_that_throttles_is_asked_for_less_whatever_it_is_asked_for() {
    for disk in [volume(), branch_volume()] {
        let file = files(&counted(&disk).0, 1)[0];
        for request in [KeyRequest::File(file), KeyRequest::Fresh] {
            let (verdict, code) = (Verdict::Unavailable, "ThrottlingException");
            let keyring = keyring_over(&disk, Arc::new(Says { verdict, code, calls: 1 }));
            assert!(keyring.rate().is_free());
            assert_eq!(keyring.supply(request), Err(KeyFail::Late));
            assert!(!keyring.rate().is_free(), "{request:?}");
        }
    }
}

/// Both kinds of lines are read whatever the mode, which says what new keys are; and where both
/// claim a slot, the one that opens counts.
#[test]
fn a_page_may_mix_both_kinds_of_lines() {
    for disk in [volume(), branch_volume()] {
        let (keyring, _) = counted(&disk);
        let (volume, asked) = (keyring.volume().id(), keyring.volume().asked());
        let branch = BranchId::random();
        let made = kms().generate(&asked, &Context::branch(volume, branch)).expect("made");
        let wrapper = BranchKey::new(&made.key, volume, branch);
        let file = BranchFile::by_kms(made.master, made.wrapped);
        keyring.store().write_branch(branch, &file).expect("written");
        let page = PageId::random();
        let by_kms = |slot| {
            let file = FileId::new(page, slot);
            let made = kms().generate(&asked, &Context::file(volume, file)).expect("made");
            let check = check(&made.key, volume, file);
            let kind = WrapKind::Master(made.master);
            Line { slot, kind, key: made.wrapped, second: None, check }
        };
        let by_branch = |slot, of| {
            let (file, key) = (FileId::new(page, slot), Key::random());
            let (kind, check) = (WrapKind::Branch(branch), check(&key, volume, file));
            let wrapped = wrapper.wrap(&key, FileId::new(page, of));
            Line { slot, kind, key: wrapped, second: None, check }
        };
        let lines = [by_kms(0), by_branch(1, 1), by_branch(2, 9), by_kms(2), by_branch(3, 9)];
        keyring.store().add_page(page, &Page::of(&lines)).expect("written");
        let outcomes = read_all(&keyring, &[0, 1, 2, 3].map(|slot| FileId::new(page, slot)));
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(()), Err(KeyFail::Rejected)]);
    }
}

#[test]
fn a_full_disk_under_the_branch_keys_is_told_as_one() {
    let disk = branch_volume();
    let (keyring, _) = counted(&disk);
    disk.limit_space(Some(0));
    assert_eq!(keyring.supply(KeyRequest::Fresh), Err(KeyFail::Disk(libc::ENOSPC)));
    disk.limit_space(None);
    assert_eq!(files(&keyring, 1).len(), 1);
}

/// While the KMS hangs on one branch key, all who want it share the one call, and no fetch thread
/// waits for another's: the files of other branch keys are served.
#[test]
fn a_call_for_a_branch_key_that_hangs_holds_up_its_own_files_alone() {
    let disk = branch_volume();
    let (slow, quick) = (files(&counted(&disk).0, 20), files(&counted(&disk).0, 20));
    let store = Store::open(disk.root()).expect("a store");
    let branch = branches_of(&store, &slow).into_iter().next().expect("one");
    let ((asked, was_asked), (let_go, go_on)) = (channel(), channel());
    let about = Context::branch(counted(&disk).0.volume().id(), branch);
    // It answers about one branch key only when it is told to, and says that it was asked.
    let go_on = Mutex::new(go_on);
    let hangs = move |context: &Context, call: &dyn Fn() -> Result<Unwrapped, KmsError>| {
        if *context == about {
            asked.send(()).expect("the test listens");
            go_on.lock().recv().expect("the test says when");
        }
        call()
    };
    let keyring = keyring_over(&disk, Arc::new(Around(hangs)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let keyring = keyring.clone();
            std::thread::spawn(move || fetch::run(&keyring))
        })
        .collect();
    let answers = keyring.answers();
    let want = |file: &FileId| {
        let ticket = answers.ticket();
        keyring.wait_for(KeyRequest::File(*file), ticket);
        ticket
    };
    let all_answered = |mut waiting: HashSet<Ticket>| {
        while !waiting.is_empty() {
            match answers.next() {
                Some(Answer::Outcome(ticket, Ok(()))) if waiting.remove(&ticket) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let hanging = slow.iter().map(want).collect();
    was_asked.recv().expect("one thread asks");
    all_answered(quick.iter().map(want).collect());
    assert_eq!(answers.take(), [], "the others wait");
    let_go.send(()).expect("it waits");
    all_answered(hanging);
    assert!(was_asked.try_recv().is_err(), "one call for all");
    keyring.stop();
    threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
}

/// A lock drops the branch keys with all others, and new keys begin another.
#[test]
fn a_lock_wipes_branch_keys_and_new_keys_begin_another() {
    let disk = branch_volume();
    let (keyring, counters) = counted(&disk);
    let before = files(&keyring, 1);
    assert!(keyring.branches().len() > 0);
    keyring.gate().set(Phase::Locked(Reason::Refused));
    drop(keyring.wipe());
    assert_eq!(keyring.branches().len(), 0);
    keyring.gate().set(Phase::Open);
    let after = files(&keyring, 1);
    assert_eq!(calls(&counters), (2, 0));
    assert_eq!(read_all(&keyring, &before), [Ok(())]);
    assert_eq!(calls(&counters), (2, 1));
    let store = Store::open(disk.root()).expect("a store");
    assert_ne!(branches_of(&store, &before), branches_of(&store, &after));
}
