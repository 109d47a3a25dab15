//! Room for what programs have open: each open file, and each listing, costs the daemon a
//! descriptor, and it may have as many as its hard limit says (getrlimit(2)).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;

use super::errno::{Outcome, errno};

/// One user has at most so many times the room that is left then: three quarters of it all where he
/// is alone, and three quarters of the rest for the next one.
const SHARE: usize = 3;

/// Whether a user may have so much, where all have so much together, of `most`.
pub fn is_fair_share(own: usize, all: usize, most: usize) -> bool {
    most.checked_sub(all).is_some_and(|left| own <= SHARE.saturating_mul(left))
}

/// The room, and who has how much of it.
#[derive(Debug)]
pub struct Room {
    most: usize,
    users: Mutex<Users>,
}

#[derive(Debug, Default)]
struct Users {
    all: usize,
    each: HashMap<u32, usize>,
}

impl Room {
    pub(super) fn new(most: usize) -> Self {
        Self { most, users: Mutex::default() }
    }

    /// Gives a user room for one more, until [`Room::give_back`].
    ///
    /// # Errors
    /// ENFILE, where the rest is for others.
    pub fn take(&self, user: u32) -> Outcome<()> {
        let mut users = self.users.lock();
        let own = users.each.get(&user).copied().unwrap_or_default();
        if !is_fair_share(own + 1, users.all + 1, self.most) {
            drop(users);
            log::warn!(
                "user {user} has {own} files and folders open, of {} that this mount can have; the \
                 rest is for others (ENFILE): raise the limit of open files (LimitNOFILE=)",
                self.most
            );
            return Err(errno(libc::ENFILE));
        }
        users.all += 1;
        *users.each.entry(user).or_default() += 1;
        Ok(())
    }

    /// How much of it is taken.
    pub fn taken(&self) -> usize {
        self.users.lock().all
    }

    /// Takes it back.
    pub fn give_back(&self, user: u32) {
        let mut users = self.users.lock();
        if let Entry::Occupied(mut own) = users.each.entry(user) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
            users.all -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(room: &Room, user: u32) -> usize {
        (0..).take_while(|_| room.take(user).is_ok()).count()
    }

    #[test]
    fn who_takes_all_he_can_leaves_room_for_others() {
        let room = Room::new(100);
        assert_eq!(taken(&room, 1000), 75);
        assert_eq!(room.take(1000), Err(errno(libc::ENFILE)));
        assert_eq!(taken(&room, 1001), 18);
        assert_eq!(taken(&room, 0), 5, "root's is a share too");
        for _ in 0..75 {
            room.give_back(1000);
        }
        room.give_back(1000);
        assert_eq!(taken(&room, 1001), 53);
        assert!(taken(&room, 1002) > 0);
        assert_eq!(taken(&Room::new(0), 0), 0);
    }
}
