//! Entries without a kernel: what slots, lanes, their memory and bulk workers do with requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::abi::{COMMIT_ID, NO_COMMIT_ID};
use super::bell::Bell;
use super::bulk::{Bulk, Turn};
use super::lane::{EntryId, Lane, PendingReply};
use super::slot::{RingReply, Slot};
use crate::fs::Errno;
use crate::fuse::reply::Sent;
use crate::fuse::runner::RunnerThread;

const COMMIT: u64 = 42;
const UNIQUE: u64 = 44;

/// A lane of a few entries.
pub(super) fn lane(number: u16) -> Arc<Lane> {
    Arc::new(Lane::new(number, vec![0; 4], 64 << 10).expect("memory"))
}

fn entry(lane: &Lane, index: u32) -> EntryId {
    EntryId { lane: lane.number, index }
}

/// Puts a request into an entry, as the kernel does.
fn put(lane: &Lane, index: u32, payload: &[u8]) {
    let headers = lane.memory.headers_mut(index as usize);
    headers[8..16].copy_from_slice(&UNIQUE.to_ne_bytes());
    headers[COMMIT_ID..COMMIT_ID + 8].copy_from_slice(&COMMIT.to_ne_bytes());
    let len = u32::try_from(payload.len()).expect("short");
    headers[272..276].copy_from_slice(&len.to_ne_bytes());
    lane.memory.payload_mut(index as usize)[..payload.len()].copy_from_slice(payload);
}

/// A request in an entry.
pub(super) fn asked(lane: &Arc<Lane>, index: u32, payload: &[u8]) -> Slot {
    put(lane, index, payload);
    Slot::new(lane.clone(), entry(lane, index))
}

/// A reply that says something.
pub(super) fn reply(slot: Slot) -> RingReply {
    slot.answer(Ok(()), |out, ()| {
        out.bytes(b"plaintext");
    })
}

fn errno_in(lane: &Lane, index: usize) -> i32 {
    let mut errno = [0; 4];
    errno.copy_from_slice(&lane.memory.headers(index)[4..8]);
    i32::from_ne_bytes(errno)
}

fn pending(lane: &Lane, index: u32) -> PendingReply {
    PendingReply { entry: entry(lane, index), commit_id: COMMIT }
}

#[test]
fn a_reply_lies_in_its_entry_and_is_sent_by_who_has_it() {
    let lane = lane(3);
    let (of, sent) = reply(asked(&lane, 1, b"name\0")).into_parts();
    assert_eq!((of.number, sent), (3, pending(&lane, 1)));
    assert_eq!(errno_in(&lane, 1), 0);
    assert_eq!(lane.memory.headers(1)[8..16], UNIQUE.to_ne_bytes());
    assert_eq!(&lane.memory.payload(1)[..9], b"plaintext");
    assert!(lane.mailbox.take().0.is_empty(), "nobody else is asked to");
}

#[test]
fn no_program_waits_for_ever() {
    let lane = lane(0);
    drop(asked(&lane, 0, b""));
    assert_eq!(errno_in(&lane, 0), -libc::EIO, "not answered");
    drop(reply(asked(&lane, 1, b"")));
    assert_eq!(errno_in(&lane, 1), 0, "answered and not sent");
    assert_eq!(lane.mailbox.take().0, [pending(&lane, 0), pending(&lane, 1)]);
}

#[test]
fn a_forwarded_request_is_its_lanes_alone() {
    let lane = lane(0);
    asked(&lane, 2, b"name\0").forward();
    let (replies, requests) = lane.mailbox.take();
    assert!(replies.is_empty());
    assert_eq!(requests, [entry(&lane, 2)]);
    let slot = Slot::new(lane.clone(), requests[0]);
    assert_eq!(slot.payload(), b"name\0");
    lane.mailbox.close();
    slot.forward();
    assert!(lane.mailbox.take().1.is_empty(), "its thread has ended");
}

/// The caller holds a pass of the gate: a lock must not be complete before the reply is sent.
#[test]
fn who_sends_through_a_lane_waits_until_it_is_sent() {
    let lane = lane(0);
    let send = |reply: RingReply| {
        let returned = Arc::new(AtomicBool::new(false));
        let set = returned.clone();
        let thread = std::thread::spawn(move || {
            reply.send_and_wait(&RunnerThread::for_test());
            set.store(true, Ordering::SeqCst);
        });
        (thread, returned)
    };
    let take = || loop {
        let (replies, _) = lane.mailbox.take();
        if !replies.is_empty() {
            return replies;
        }
        std::thread::yield_now();
    };
    let (thread, returned) = send(reply(asked(&lane, 0, b"")));
    assert_eq!(take(), [pending(&lane, 0)]);
    assert!(!returned.load(Ordering::SeqCst), "it is not sent yet");
    lane.mailbox.note_sent(1);
    thread.join().expect("it goes on");
    let (thread, _) = send(asked(&lane, 1, b"").finish(Err(Errno(libc::EKEYREVOKED))));
    thread.join().expect("an errno is not waited for");
    assert_eq!(take(), [pending(&lane, 1)]);
    let (thread, _) = send(reply(asked(&lane, 2, b"")));
    assert_eq!(take(), [pending(&lane, 2)]);
    lane.mailbox.close();
    thread.join().expect("nobody waits for a thread that has ended");
    let (thread, _) = send(reply(asked(&lane, 3, b"")));
    thread.join().expect("nor afterwards");
    asked(&lane, 0, b"").finish(Err(Errno(libc::EIO))).send_refusal();
}

/// Later, shorter replies wiped their own length, and the end of an earlier one stayed.
#[test]
fn an_entry_is_wiped_as_far_as_it_was_ever_used() {
    let lane = lane(0);
    let content = vec![7; 20_000];
    let (_, sent) = asked(&lane, 0, b"")
        .answer(Ok(()), |out, ()| {
            out.bytes(&content);
        })
        .into_parts();
    // The next request is there at once.
    put(&lane, 0, b"name\0");
    lane.memory.wipe_unless_asked(sent.entry.index());
    assert_eq!(&lane.memory.payload(0)[..5], b"name\0", "it is not wiped");
    let slot = Slot::new(lane.clone(), sent.entry);
    assert_eq!(slot.payload(), b"name\0");
    assert!(lane.memory.payload(0)[5..].iter().all(|b| *b == 0), "nothing of the earlier reply");
    let (_, sent) = reply(slot).into_parts();
    lane.memory.wipe_unless_asked(sent.entry.index());
    assert!(lane.memory.payload(0).iter().all(|b| *b == 0), "idle");
}

/// Whether the next request is there was known by its completion alone: had it come later, the
/// content of a write would have been wiped.
#[test]
fn a_request_that_is_not_announced_yet_is_not_wiped() {
    let lane = lane(0);
    let (_, sent) = reply(asked(&lane, 0, b"")).into_parts();
    let left = &lane.memory.headers(0)[COMMIT_ID..COMMIT_ID + 8];
    assert_eq!(left, NO_COMMIT_ID.to_ne_bytes());
    put(&lane, 0, b"content of a write");
    lane.memory.wipe_unless_asked(sent.entry.index());
    assert_eq!(Slot::new(lane, sent.entry).payload(), b"content of a write");
}

fn is_rung(bell: &Bell) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&now)).expect("a descriptor") == 1
}

#[test]
fn a_bulk_request_wakes_one_idle_worker_and_is_answered_by_one() {
    let (lane, bulk) = (lane(0), Bulk::new(3).expect("descriptors"));
    let rung = |worker: usize| is_rung(bulk.bell(worker));
    assert!(matches!(bulk.turn(0), Turn::Wait) && matches!(bulk.turn(2), Turn::Wait));
    bulk.push(asked(&lane, 0, b""));
    assert_eq!([0, 1, 2].map(rung), [false, false, true], "the one that slept last");
    assert!(matches!(bulk.turn(2), Turn::Run(_)));
    assert!(matches!(bulk.turn(2), Turn::Wait));
    // Two that came to a worker's ring: it takes one, and wakes another for the other.
    bulk.enqueue_without_wake(asked(&lane, 1, b""));
    bulk.enqueue_without_wake(asked(&lane, 2, b""));
    assert!(!rung(0));
    assert!(matches!(bulk.turn(1), Turn::Run(_)));
    assert!(rung(0) || rung(2));
    assert!(matches!(bulk.turn(0), Turn::Run(_)));
    bulk.close();
    assert!((0..3).all(|worker| matches!(bulk.turn(worker), Turn::End)));
    assert!((0..3).all(rung), "each is told");
}
