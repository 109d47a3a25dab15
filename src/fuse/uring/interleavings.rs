//! Runner, lanes and gate under a scheduler that tries orders of threads; one in which all threads
//! wait is a deadlock, and fails.
//!
//! `cargo test --locked --features shuttle --lib interleavings`

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shuttle::thread;

use super::mailbox::{Mailbox, Wake};
use crate::fs::Errno;
use crate::fuse::runner::{Runner, RunnerThread, Task};
use crate::keys::fixture::{close, keyring, kms};
use crate::keys::{Gate, KeyRequest, Keyring, Phase, Purpose, Reason};
use crate::sync::{Condvar, Mutex, check_orders};

const REFUSED: Reason = Reason::Refused;

/// In place of an eventfd in a ring.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock();
        while !std::mem::take(&mut *rung) {
            self.rings.wait(&mut rung);
        }
    }
}

impl Wake for Arc<Bell> {
    fn wake(&self) {
        *self.rung.lock() = true;
        self.rings.notify_one();
    }
}

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Content,
    Errno,
}

/// A reply to the request of this number.
type Reply = (u32, Says);

/// A request that a lane's thread answers itself, and the lane that its reply goes through.
type Request = (u32, usize);

/// How a lane's thread sends a reply that goes through another lane.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Foreign {
    /// It has none.
    Never,
    /// It waits for that lane's thread, as it once did.
    Waits,
}

/// What programs have been told, and whether the keys are gone.
#[derive(Default)]
struct Programs {
    told: Mutex<BTreeMap<u32, Says>>,
    more: Condvar,
    wiped: AtomicBool,
}

impl Programs {
    fn tell(&self, (request, says): Reply) {
        assert!(
            says == Says::Errno || !self.wiped.load(Ordering::SeqCst),
            "content reached a program after the lock was complete"
        );
        let twice = self.told.lock().insert(request, says);
        assert_eq!(twice, None, "request {request} is answered once");
        self.more.notify_all();
    }

    fn wait_for(&self, requests: usize) {
        let mut told = self.told.lock();
        while told.len() < requests {
            self.more.wait(&mut told);
        }
    }
}

struct World {
    keyring: Arc<Keyring>,
    runner: Arc<Runner>,
    lanes: [Mailbox<Reply, Request, Arc<Bell>>; 2],
    programs: Programs,
    ended: AtomicBool,
    foreign: Foreign,
}

impl World {
    fn new(foreign: Foreign) -> Arc<Self> {
        let keyring = keyring(kms());
        let runner = Runner::new(keyring.gate().clone(), keyring.answers().clone());
        Arc::new(Self {
            runner: Arc::new(runner),
            keyring,
            lanes: [(); 2].map(|()| Mailbox::new(Arc::default())),
            programs: Programs::default(),
            ended: AtomicBool::new(false),
            foreign,
        })
    }

    fn gate(&self) -> &Gate {
        self.keyring.gate()
    }

    fn spawn(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) + Send + 'static,
    ) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || work(&world))
    }

    /// The life of a lane's thread, with its bell in place of its ring.
    fn serve_lane(&self, lane: usize) {
        let mailbox = &self.lanes[lane];
        while !self.ended.load(Ordering::SeqCst) {
            mailbox.owner().wait();
            let (replies, requests) = mailbox.take();
            let count = replies.len();
            replies.into_iter().for_each(|reply| self.programs.tell(reply));
            mailbox.note_sent(count);
            for (request, through) in requests {
                let Ok(_pass) = self.gate().enter(Purpose::Use) else {
                    self.programs.tell((request, Says::Errno));
                    continue;
                };
                if through == lane {
                    self.programs.tell((request, Says::Content));
                } else {
                    assert!(self.foreign == Foreign::Waits);
                    let reply = (request, Says::Content);
                    self.lanes[through].post_and_wait(reply, &RunnerThread::for_test());
                }
            }
        }
        mailbox.close();
    }

    /// Lets a lock come to its end.
    fn lock(&self) {
        close(&self.keyring, Phase::Draining(REFUSED));
        close(&self.keyring, Phase::Locked(REFUSED));
        self.gate().wait_idle();
        self.programs.wiped.store(true, Ordering::SeqCst);
    }

    fn park(self: &Arc<Self>, task: Asked) {
        match self.runner.park(Box::new(task)) {
            Ok(ticket) => self.keyring.wait_for(KeyRequest::Fresh, ticket),
            Err(_) => panic!("there is room"),
        }
    }

    fn end(&self) {
        self.runner.stop();
        self.ended.store(true, Ordering::SeqCst);
        self.lanes.iter().for_each(|lane| lane.owner().wake());
    }
}

/// A request in so many pieces with the runner, whose reply goes through a lane.
struct Asked {
    world: Arc<World>,
    request: u32,
    lane: usize,
    pieces: u32,
}

impl Task for Asked {
    fn purpose(&self) -> Option<Purpose> {
        Some(Purpose::Use)
    }

    fn user(&self) -> u32 {
        0
    }

    fn weight(&self) -> usize {
        0
    }

    fn run(mut self: Box<Self>, thread: &RunnerThread) {
        let world = self.world.clone();
        let Ok(pass) = world.gate().enter(Purpose::Use) else {
            return self.refuse(Errno(libc::EKEYREVOKED));
        };
        assert!(!world.programs.wiped.load(Ordering::SeqCst), "inside of a gate that is idle");
        if self.pieces > 1 {
            self.pieces -= 1;
            drop(pass);
            return world.runner.push(self, None);
        }
        world.lanes[self.lane].post_and_wait((self.request, Says::Content), thread);
    }

    fn refuse(self: Box<Self>, _: Errno) {
        self.world.lanes[self.lane].post((self.request, Says::Errno));
    }
}

/// Requests that lanes' threads answer, that are queued, long, and parked, while their key comes
/// and while the mount is locked: each is answered once, nothing waits for ever, the gate empties,
/// and no content comes after that.
#[test]
fn every_request_is_answered_and_a_lock_comes_to_its_end() {
    check_orders(4000, || {
        let world = World::new(Foreign::Never);
        let mut threads = vec![
            world.spawn(|world| world.serve_lane(0)),
            world.spawn(|world| world.serve_lane(1)),
            world.spawn(|world| world.runner.run_tasks()),
            world.spawn(|world| world.runner.run_tasks()),
            world.spawn(|world| world.runner.take_answers()),
        ];
        let task = |request, lane, pieces| Asked { world: world.clone(), request, lane, pieces };
        world.runner.push(Box::new(task(0, 0, 1)), None);
        world.runner.push(Box::new(task(1, 1, 2)), None);
        world.park(task(2, 0, 1));
        for (request, lane) in [(3, 0), (4, 1)] {
            world.lanes[lane].forward((request, lane)).expect("it is open");
        }
        threads.push(world.spawn(|world| {
            let _ = world.keyring.supply(KeyRequest::Fresh);
        }));
        world.lock();
        world.programs.wait_for(5);
        world.end();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    });
}

/// The model finds what it looks for: two lanes' threads that each have a reply of the other's, as
/// they once had when keys came, wait for each other inside of the gate.
#[test]
#[should_panic(expected = "deadlock")]
fn lanes_that_wait_for_each_other_are_found() {
    check_orders(4000, || {
        let world = World::new(Foreign::Waits);
        let threads =
            [world.spawn(|world| world.serve_lane(0)), world.spawn(|world| world.serve_lane(1))];
        for (request, lane) in [(0, 0), (1, 1)] {
            world.lanes[lane].forward((request, 1 - lane)).expect("it is open");
        }
        world.lock();
        world.programs.wait_for(2);
        world.end();
        threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    });
}
