//! Sidecar pages in the store: read whole, replaced whole.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;

use super::Page;
use super::layout::{MODE, Store, lock_folder};
use crate::disk::{self, Dir, Time};
use crate::durable;
use crate::ids::PageId;

/// 64 lines of the longest wrapped key, with room for damaged lines that are kept.
const MAX_PAGE: usize = 4 << 20;
/// What a page takes, about.
const TRIED: usize = 32 << 10;

impl Store {
    fn shard(&self, page: PageId) -> io::Result<Dir> {
        self.keys.open_dir(OsStr::new(&format!("{:02x}", page.0[0])))
    }

    /// Reads a sidecar page; `None` where there is none.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn read_page(&self, page: PageId) -> io::Result<Option<Page>> {
        let shard = self.shard(page)?;
        match disk::read_all(&*shard, OsStr::new(&page.to_string()), MAX_PAGE) {
            Ok(bytes) => Ok(Some(Page::parse(&bytes))),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes as much as a page takes and removes it again: whether the disk takes pages now.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn try_writing(&self) -> io::Result<()> {
        let shard = self.shard(PageId::random())?;
        let _held = lock_folder(&shard)?;
        durable::try_writing(&*shard, TRIED, MODE)
    }

    /// The sidecar pages in the folder `keys/XX`, XX being `shard`. Names that are no page's are
    /// left out.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn pages(&self, shard: u8) -> io::Result<Vec<PageId>> {
        let names = disk::names(&*self.keys.open_dir(OsStr::new(&format!("{shard:02x}")))?)?;
        let page = |n: &OsString| PageId::parse(n.to_str()?).ok().filter(|p| p.0[0] == shard);
        Ok(names.iter().filter_map(page).collect())
    }

    /// When the folder `keys/XX` last changed: no page in it is newer.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn pages_changed(&self, shard: u8) -> io::Result<Time> {
        let folder = self.keys.open_dir(OsStr::new(&format!("{shard:02x}")))?;
        Ok(folder.stat_self()?.mtime)
    }

    /// Writes a new page, durably: only then may its keys be used.
    ///
    /// # Errors
    /// Of the backing filesystem.
    pub fn add_page(&self, page: PageId, lines: &Page) -> io::Result<()> {
        let shard = self.shard(page)?;
        let _held = lock_folder(&shard)?;
        durable::replace(&*shard, OsStr::new(&page.to_string()), &lines.encode(), MODE)
    }

    /// Removes lines from a page: read afresh and replaced whole, under the folder's lock, so
    /// that no other process's change is undone. An empty page is removed.
    ///
    /// # Errors
    /// Of the backing filesystem; the page is then as it was.
    pub fn remove_lines(&self, page: PageId, slots: &HashSet<u16>) -> io::Result<()> {
        self.change_page(page, |lines| lines.remove(|slot| slots.contains(&slot)))
    }

    /// Changes a page that is there, as [`Store::remove_lines`] does.
    ///
    /// # Errors
    /// Of the backing filesystem; the page is then as it was.
    pub fn change_page(&self, page: PageId, change: impl FnOnce(&mut Page)) -> io::Result<()> {
        let shard = self.shard(page)?;
        let _held = lock_folder(&shard)?;
        let name = page.to_string();
        let name = OsStr::new(&name);
        let mut lines = match disk::read_all(&*shard, name, MAX_PAGE) {
            Ok(bytes) => Page::parse(&bytes),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(e) => return Err(e),
        };
        let before = lines.clone();
        change(&mut lines);
        if lines.is_empty() {
            shard.unlink(name)?;
            shard.sync()
        } else if lines == before {
            Ok(())
        } else {
            durable::replace(&*shard, name, &lines.encode(), MODE)
        }
    }
}
