//! The filesystem over the store: no FUSE types, no KMS, no waiting.
//!
//! Every operation is synchronous. One that needs a key which is not at hand returns
//! [`Fail::Park`] before it has done anything, holding no lock; the caller runs it again.

mod attr;
mod data;
mod dirs;
mod entries;
mod errno;
mod fresh;
mod handles;
mod holes;
mod ids;
mod listing;
mod names;
mod node;
mod path;
mod piece;
mod positions;
pub mod records;
mod remove;
mod rename;
mod room;
mod search;
mod seek;
mod size_floor;
mod strangers;
mod table;
mod user_xattrs;
mod who;
mod xattrs;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

pub use attr::{Attr, Change, Found, SetTime};
pub use data::Reach;
pub use entries::{Caller, Made};
pub use errno::{Errno, Fail, Outcome, errno};
pub use handles::{OpenFor, SyncWhat};
pub use listing::{Detail, Listed, Reached, Visit};
pub use names::DIR_ID;
pub use node::Node;
pub use path::Reading;
pub use piece::Piece;
pub use remove::MOST_ASKED;
pub use rename::RenameHow;
pub use room::{Room, is_fair_share};
pub use search::Search;
pub use seek::Sought;
pub use size_floor::SizeFloor;
pub use strangers::Found as StrangersFound;
pub use table::{ROOT, Table};
pub use user_xattrs::NamesApart;
pub use who::{Tell, Who};
pub use xattrs::XattrSet;

use crate::disk::FsStat;
use crate::disk::device::{Device, Writeback};
use crate::disk::identity::Owners;
use crate::ids::DirId;
use crate::keys::{Carriers, Keyring, Pass, Purpose};
use crate::store::{Names, Store};
use dirs::DirCache;

/// Whether the mount may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may.
    ReadWrite,
    /// Every change is EROFS.
    ReadOnly,
}

/// The filesystem's settings.
#[derive(Clone, Debug)]
pub struct FsSettings {
    /// Whether it may be changed.
    pub access: Access,
    /// Whose files a new one is.
    pub owners: Owners,
    /// How many directory descriptors are kept open.
    pub directories: usize,
    /// How many files and listings programs may have open, all together.
    pub handles: usize,
}

/// The filesystem.
pub struct Fs {
    store: Arc<Store>,
    keyring: Arc<Keyring>,
    table: Table,
    dirs: DirCache,
    /// Where searches by number saw entries.
    seen: search::SeenPlaces,
    dir_carriers: Carriers<DirId>,
    listings: listing::Listings,
    strangers: strangers::Strangers,
    room: Room,
    settings: FsSettings,
    names: Names,
    longest_name: u64,
    writeback: Writeback,
    root_ino: u64,
    /// Removed files whose header the disk was asked for.
    headers_asked: AtomicUsize,
    /// Told of attributes that changed unexpectedly.
    tell: OnceLock<Tell>,
}

impl Fs {
    /// A filesystem over an opened volume.
    ///
    /// # Errors
    /// When the store's root cannot be looked at.
    pub fn new(
        store: Arc<Store>,
        keyring: Arc<Keyring>,
        device: &Device,
        settings: FsSettings,
    ) -> std::io::Result<Self> {
        let root_ino = store.tree().stat_self()?.ino;
        let names = keyring.volume().settings().names;
        let beneath = store.tree().statfs()?;
        Ok(Self {
            dirs: DirCache::new(settings.directories),
            seen: search::SeenPlaces::default(),
            dir_carriers: Carriers::default(),
            store,
            keyring,
            table: Table::default(),
            listings: listing::Listings::new(positions::Kind::of(beneath.kind)),
            room: Room::new(settings.handles),
            longest_name: names::longest(names, beneath.namemax),
            strangers: strangers::Strangers::default(),
            settings,
            names,
            writeback: device.writeback,
            root_ino,
            headers_asked: AtomicUsize::new(0),
            tell: OnceLock::new(),
        })
    }

    /// The keyring.
    pub fn keyring(&self) -> &Arc<Keyring> {
        &self.keyring
    }

    /// The inode table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Passes the gate; held until the request is answered.
    ///
    /// # Errors
    /// The errno of the mount's state.
    pub fn enter(&self, purpose: Purpose) -> Outcome<Pass<'_>> {
        Ok(self.keyring.enter(purpose)?)
    }

    /// Room for what programs have open.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The node that the kernel names.
    ///
    /// # Errors
    /// ESTALE where there is none: the kernel never names one that it does not know.
    pub fn node(&self, ino: u64) -> Outcome<Arc<Node>> {
        self.table.get(ino).ok_or(errno(libc::ESTALE))
    }

    /// The root's number is 1 whatever it is in the store; whoever has 1 there gets the root's.
    fn map_ino(&self, ino: u64) -> u64 {
        match ino {
            n if n == self.root_ino => ROOT,
            ROOT => self.root_ino,
            n => n,
        }
    }

    fn writable(&self) -> Outcome<()> {
        match self.settings.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(errno(libc::EROFS)),
        }
    }

    /// Space and inodes of the store's filesystem. It needs no key.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn statfs(&self) -> Outcome<FsStat> {
        let mut s = self.store.tree().statfs()?;
        s.namemax = self.longest_name;
        Ok(s)
    }
}
