//! A file's bytes, and which of them a power cut may leave.
//!
//! Since its last sync a file has a log of size changes and page writes. A power cut keeps some
//! prefix of the size changes (a journal's order), and of each page any version that this prefix
//! allows: one that was written before a cut that is not kept, or after.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The unit of a write that is not torn.
pub(super) const PAGE: u64 = 4096;

pub(super) type Page = Arc<[u8; PAGE as usize]>;
type Pages = BTreeMap<u64, Page>;

#[derive(Clone, Debug)]
enum Change {
    Size(u64),
    Page(u64, Page),
}

/// A file's content: what is seen, what is durable, and what happened in between.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    size: u64,
    pages: Pages,
    base: (u64, Pages),
    log: Vec<Change>,
}

/// The states with one prefix of the size changes: each page has one of its versions.
#[derive(Debug)]
pub(super) struct Shape {
    size: u64,
    versions: Vec<(u64, Vec<Page>)>,
}

fn zeros() -> Page {
    Arc::new([0; PAGE as usize])
}

/// The page without what lies beyond the end of the file.
fn cut(page: &Page, index: u64, size: u64) -> Page {
    let keep = size.saturating_sub(index * PAGE).min(PAGE) as usize;
    if page[keep..].iter().all(|b| *b == 0) {
        return page.clone();
    }
    let mut bytes = **page;
    bytes[keep..].fill(0);
    Arc::new(bytes)
}

fn cut_all(pages: &mut Pages, size: u64) {
    pages.split_off(&size.div_ceil(PAGE));
    for (index, page) in pages.range_mut(size / PAGE..) {
        *page = cut(page, *index, size);
    }
}

/// A range in pages: index, and the part of the page.
fn pieces(at: u64, len: u64) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let (index, from) = ((at + done) / PAGE, (at + done) % PAGE);
            let n = (PAGE - from).min(len - done);
            done += n;
            (index, from as usize..(from + n) as usize)
        })
    })
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// How many pages take space.
    pub(super) fn allocated(&self) -> u64 {
        self.pages.len() as u64
    }

    pub(super) fn read(&self, buf: &mut [u8], at: u64) -> usize {
        let len = self.size.saturating_sub(at).min(buf.len() as u64);
        let mut rest = &mut buf[..len as usize];
        for (index, part) in pieces(at, len) {
            let (now, later) = rest.split_at_mut(part.len());
            match self.pages.get(&index) {
                Some(page) => now.copy_from_slice(&page[part]),
                None => now.fill(0),
            }
            rest = later;
        }
        len as usize
    }

    /// Writes page by page, as long as `allow` grants the space of each new page; answers how
    /// many bytes that were.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        at: u64,
        mut allow: impl FnMut() -> bool,
    ) -> usize {
        let mut done = 0;
        for (index, part) in pieces(at, bytes.len() as u64) {
            if !self.pages.contains_key(&index) && !allow() {
                break;
            }
            let mut page = self.pages.get(&index).map_or([0; PAGE as usize], |p| **p);
            let n = part.len();
            page[part].copy_from_slice(&bytes[done..done + n]);
            done += n;
            let page = Arc::new(page);
            self.pages.insert(index, page.clone());
            self.log.push(Change::Page(index, page));
        }
        let end = at + done as u64;
        if end > self.size {
            self.size = end;
            self.log.push(Change::Size(end));
        }
        done
    }

    pub(super) fn set_size(&mut self, size: u64) {
        if size < self.size {
            cut_all(&mut self.pages, size);
        }
        self.size = size;
        self.log.push(Change::Size(size));
    }

    pub(super) fn punch(&mut self, at: u64, len: u64) {
        let len = len.min(self.size.saturating_sub(at));
        for (index, part) in pieces(at, len) {
            let Some(page) = self.pages.get(&index) else { continue };
            let mut bytes = **page;
            bytes[part.clone()].fill(0);
            let page = Arc::new(bytes);
            if part.len() as u64 == PAGE {
                self.pages.remove(&index);
            } else {
                self.pages.insert(index, page.clone());
            }
            self.log.push(Change::Page(index, page));
        }
    }

    pub(super) fn seek_data(&self, at: u64) -> Option<u64> {
        let (index, _) = self.pages.range(at / PAGE..).next()?;
        let found = at.max(index * PAGE);
        (found < self.size).then_some(found)
    }

    pub(super) fn seek_hole(&self, at: u64) -> u64 {
        let hole = (at / PAGE..).find(|index| !self.pages.contains_key(index));
        hole.map_or(self.size, |index| at.max(index * PAGE).min(self.size))
    }

    pub(super) fn sync(&mut self) {
        self.base = (self.size, self.pages.clone());
        self.log.clear();
    }

    /// Whether all of it is durable.
    pub(super) fn is_synced(&self) -> bool {
        self.log.is_empty()
    }

    /// What a power cut may leave, by prefixes of the size changes.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        let sizes = self.log.iter().enumerate().filter(|(_, c)| matches!(c, Change::Size(_)));
        let prefixes = sizes.map(|(i, _)| i + 1);
        std::iter::once(0).chain(prefixes).map(|kept| self.shape(kept)).collect()
    }

    /// The shape that keeps the size changes among the first `kept` entries of the log.
    fn shape(&self, kept: usize) -> Shape {
        let mut size = self.base.0;
        let mut latest = self.base.0;
        let mut versions: BTreeMap<u64, Vec<Page>> =
            self.base.1.iter().map(|(k, p)| (*k, vec![p.clone()])).collect();
        for (i, change) in self.log.iter().enumerate() {
            match change {
                Change::Size(new) if i < kept => {
                    if *new < size {
                        for (k, all) in &mut versions {
                            all.iter_mut().for_each(|p| *p = cut(p, *k, *new));
                        }
                    }
                    (size, latest) = (*new, *new);
                }
                // What was written after a cut that is not kept is not there either: its
                // blocks were given out by the transaction that cut the file, or later.
                Change::Size(new) if *new < latest => break,
                Change::Size(new) => latest = *new,
                Change::Page(k, page) => {
                    versions.entry(*k).or_insert_with(|| vec![zeros()]).push(page.clone());
                }
            }
        }
        let versions = versions
            .into_iter()
            .filter(|(k, _)| k * PAGE < size)
            .map(|(k, all)| {
                let mut distinct: Vec<Page> = Vec::with_capacity(all.len());
                for page in all.iter().map(|p| cut(p, k, size)) {
                    if !distinct.contains(&page) {
                        distinct.push(page);
                    }
                }
                (k, distinct)
            })
            .collect();
        Shape { size, versions }
    }
}

impl Shape {
    /// How many states there are.
    pub(super) fn count(&self) -> u128 {
        self.versions.iter().fold(1, |n, (_, v)| n.saturating_mul(v.len() as u128))
    }

    /// One of them, all of it durable.
    pub(super) fn state(&self, mut index: u128) -> Content {
        let mut pages = Pages::new();
        for (k, versions) in &self.versions {
            let n = versions.len() as u128;
            pages.insert(*k, versions[(index % n) as usize].clone());
            index /= n;
        }
        Content { size: self.size, base: (self.size, pages.clone()), pages, log: Vec::new() }
    }
}
