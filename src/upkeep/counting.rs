//! How many lines are under which master key, counted beside a mount.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::{Census, Counts, Store};
use crate::threads::{Role, spawn};

/// How long whoever asks waits for a count.
const PATIENCE: Duration = Duration::from_millis(300);
/// After a count, the next waits this many times its length: at most a tenth of the time goes
/// into counting.
const REST: u32 = 10;

#[derive(Default)]
struct State {
    /// The last count, and when it began.
    last: Option<(Counts, Instant)>,
    /// When the next may begin.
    next: Option<Instant>,
    going_on: bool,
}

impl State {
    /// The last count, where it began no earlier than `asked`.
    fn since(&self, asked: Instant) -> Option<Counts> {
        let (counts, began) = self.last.as_ref()?;
        (*began >= asked).then(|| counts.clone())
    }
}

/// Counts in a thread of its own, one count at a time.
#[derive(Default)]
pub struct Counting {
    census: Mutex<Census>,
    state: Mutex<State>,
    done: Condvar,
}

impl Counting {
    /// The lines as they are now. `None` where that takes longer than 0.3 s to find out: a count
    /// from before may miss what was written since, and is not answered.
    pub fn current(self: &Arc<Self>, store: &Arc<Store>) -> Option<Counts> {
        let asked = Instant::now();
        // Held by a count that goes on.
        if let Some(census) = self.census.try_lock()
            && let Ok(Some(counts)) = census.unchanged(store)
        {
            return Some(counts);
        }
        let mut state = self.state.lock();
        loop {
            if let Some(counts) = state.since(asked) {
                return Some(counts);
            }
            if !state.going_on && state.next.is_none_or(|next| Instant::now() >= next) {
                self.begin(&mut state, store);
            }
            let until = asked + PATIENCE;
            let until = match state.next {
                Some(next) if !state.going_on => until.min(next),
                _ => until,
            };
            self.done.wait_until(&mut state, until);
            if Instant::now() >= asked + PATIENCE {
                return state.since(asked);
            }
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State, store: &Arc<Store>) {
        let (counting, store) = (self.clone(), store.clone());
        let count = move || counting.count(&store);
        match spawn(Role::Count, count) {
            Ok(_) => state.going_on = true,
            Err(e) => {
                log::warn!("cannot start a thread to count sidecar lines: {e}");
                state.next = Some(Instant::now() + PATIENCE);
            }
        }
    }

    fn count(&self, store: &Store) {
        let began = Instant::now();
        let counted = self.census.lock().take(store);
        let mut state = self.state.lock();
        match counted {
            Ok(counts) => state.last = Some((counts, began)),
            Err(e) => log::warn!("cannot count the lines of the sidecars: {e}"),
        }
        state.next = Some(Instant::now() + began.elapsed() * REST);
        state.going_on = false;
        self.done.notify_all();
    }
}
