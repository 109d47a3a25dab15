//! The locks and atomics that the gate, the keyring, the runner and lanes share between threads.
//!
//! They are parking_lot's and std's. Under the feature `shuttle`, which is there for
//! `interleavings.rs` in `keys` and in `fuse/uring` alone, a scheduler owns them that tries one order of threads after
//! another; code outside such a test cannot run then.

#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Condvar, Mutex, RwLock};
#[cfg(not(feature = "shuttle"))]
pub use std::sync::atomic;

#[cfg(feature = "shuttle")]
pub use scheduled::{Condvar, Mutex, RwLock};
#[cfg(feature = "shuttle")]
pub use shuttle::sync::atomic;

/// Shuttle's locks in the shape of parking_lot's: no poison, and a condition that borrows its
/// guard. Nothing times out.
#[cfg(feature = "shuttle")]
mod scheduled {
    use std::ops::{Deref, DerefMut};
    use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::sync as raw;

    /// As parking_lot's.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(raw::Mutex<T>);

    /// Proof of holding it; empty while its thread waits for a condition.
    #[derive(Debug)]
    pub struct MutexGuard<'a, T>(Option<raw::MutexGuard<'a, T>>);

    const HELD: &str = "a guard is empty only inside of wait, which borrows it";

    impl<T> Mutex<T> {
        /// An open lock.
        pub fn new(value: T) -> Self {
            Self(raw::Mutex::new(value))
        }

        /// Waits for it.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().expect(HELD)
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect(HELD)
        }
    }

    /// As parking_lot's.
    #[derive(Debug, Default)]
    pub struct Condvar(raw::Condvar);

    /// As parking_lot's: never.
    #[derive(Clone, Copy, Debug)]
    pub struct WaitTimeoutResult;

    impl WaitTimeoutResult {
        /// Whether the time was up.
        pub fn timed_out(self) -> bool {
            false
        }
    }

    impl Condvar {
        /// A condition that nobody waits for.
        pub fn new() -> Self {
            Self::default()
        }

        /// Waits until it is notified.
        pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let held = guard.0.take().expect(HELD);
            guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
        }

        /// As `wait`: a lost wake-up is a deadlock here, which the scheduler tells.
        pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _: Duration) -> WaitTimeoutResult {
            self.wait(guard);
            WaitTimeoutResult
        }

        /// Wakes one.
        pub fn notify_one(&self) {
            self.0.notify_one();
        }

        /// Wakes all.
        pub fn notify_all(&self) {
            self.0.notify_all();
        }
    }

    /// As parking_lot's.
    #[derive(Debug, Default)]
    pub struct RwLock<T>(raw::RwLock<T>);

    impl<T> RwLock<T> {
        /// An open lock.
        pub fn new(value: T) -> Self {
            Self(raw::RwLock::new(value))
        }

        /// Waits for it, shared.
        pub fn read(&self) -> raw::RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        /// Waits for it, exclusive.
        pub fn write(&self) -> raw::RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

/// Runs `test` under many orders of its threads; one in which all of them wait fails.
#[cfg(all(test, feature = "shuttle"))]
pub fn check_orders(orders: usize, test: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};
    let full = std::env::var_os("KMSFS_TEST_FULL").is_some_and(|v| v == "1");
    let orders = if full { orders * 20 } else { orders };
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 20;
    let test = std::sync::Arc::new(test);
    let again = test.clone();
    shuttle::Runner::new(RandomScheduler::new(orders), config.clone()).run(move || test());
    // Few changes of thread at odd places, where chance changes all the time.
    shuttle::Runner::new(PctScheduler::new(3, orders / 10), config).run(move || again());
}
