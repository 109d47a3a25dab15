//! How many lines are under which master key, counted beside a mount.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::{Census, Counts, Store};
use crate::threads::{Role, spawn};

/// How long who asks waits for a count that has begun.
const PATIENCE: Duration = Duration::from_millis(300);
/// A count is taken again when this many times its length have passed: at most a tenth of the
/// time goes into counting.
const REST: u32 = 10;

#[derive(Default)]
struct State {
    /// What was counted last, and when the next count may begin.
    last: Option<(Counts, Instant)>,
    going_on: bool,
}

/// See the module's description.
#[derive(Default)]
pub struct Counting {
    census: Mutex<Census>,
    state: Mutex<State>,
    done: Condvar,
}

impl Counting {
    /// What is known: fresh if it was counted lately or can be within 0.3 s, else the last count;
    /// `None` while the first goes on.
    pub fn told(self: &Arc<Self>, store: &Arc<Store>) -> Option<Counts> {
        let mut state = self.state.lock();
        let due = state.last.as_ref().is_none_or(|(_, next)| Instant::now() >= *next);
        if due && !state.going_on {
            state.going_on = true;
            let (counting, store) = (self.clone(), store.clone());
            let count = move || counting.count(&store);
            if let Err(e) = spawn(Role::Count, count) {
                log::warn!("no thread to count lines: {e}");
                state.going_on = false;
            }
        }
        if state.going_on {
            self.done.wait_for(&mut state, PATIENCE);
        }
        state.last.as_ref().map(|(counts, _)| counts.clone())
    }

    fn count(&self, store: &Store) {
        let began = Instant::now();
        let counted = self.census.lock().take(store);
        let mut state = self.state.lock();
        match counted {
            Ok(counts) => {
                let next = Instant::now() + began.elapsed() * REST;
                state.last = Some((counts, next));
            }
            Err(e) => log::warn!("the lines of the sidecars cannot be counted: {e}"),
        }
        state.going_on = false;
        self.done.notify_all();
    }
}
