//! Regular files: header, key, and every record.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::finding::{BadHeader, Problem, errno};
use super::walk::FileJob;
use super::{Job, key, xattrs};
use crate::content::{
    ContentCipher, FirstPage, HEADER, PAGE, capacity, is_hole, parse_header, start_of,
};
use crate::disk::{File, Open};
use crate::fs::Errno;
use crate::ids::FileId;
use crate::secret::wipe;

const PAGE_LEN: usize = PAGE as usize;
/// Reads go in pieces of this many pages.
const PIECE: u64 = 256;

/// What a file begins with.
enum Head {
    /// It has no byte of content, and no key.
    Empty,
    /// A header that says an id.
    Keyed(FileId),
    /// Zeros: every record has to be a hole.
    Keyless,
}

/// Records that are not what they should be.
#[derive(Default)]
struct Bad {
    count: u64,
    first: Option<u64>,
    /// The first that the backing filesystem does not give.
    unreadable: Option<(u64, Errno)>,
}

/// Reads files, one after another, with buffers of its own.
pub(super) struct Reader<'a> {
    job: &'a Job<'a>,
    pages: Vec<u8>,
    plain: Vec<u8>,
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        wipe(&mut self.plain);
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(job: &'a Job<'a>) -> Self {
        let pages = vec![0; PAGE_LEN * PIECE as usize];
        Self { job, pages, plain: vec![0; PAGE_LEN] }
    }

    /// Checks one file, and tells what is wrong.
    pub(super) fn check(&mut self, file: &FileJob) {
        let job = self.job;
        job.files.fetch_add(1, Ordering::Relaxed);
        xattrs::check(job, &*file.dir, &file.entry, &file.place, || file.path.clone());
        if !is_finished(file.stat.size) {
            job.tell(&file.place, Problem::Size);
        }
        let opened = file.dir.open(&file.entry, Open::Read);
        let outcome = match &opened {
            Ok(open) => self.content(open, file),
            Err(e) => Err(Problem::Unreadable(errno(e))),
        };
        if let Err(what) = outcome {
            job.tell(&file.place, what);
        }
    }

    fn content(&mut self, file: &File, report: &FileJob) -> Result<(), Problem> {
        let size = report.stat.size;
        let head = head(file, size)?;
        let cipher = match head {
            Head::Empty => return Ok(()),
            Head::Keyless => None,
            Head::Keyed(id) => {
                if !self.job.ids.lock().insert(id) {
                    let twin = (report.place.clone(), report.stat.ino);
                    self.job.twins.lock().entry(id).or_default().push(twin);
                    return Ok(());
                }
                match key::cipher(self.job, id) {
                    Ok(cipher) => Some(cipher.ok_or(Stopped)),
                    Err(why) => return Err(Problem::Key(why)),
                }
            }
        };
        let cipher = match cipher {
            Some(Err(Stopped)) => return Ok(()),
            Some(Ok(cipher)) => Some(cipher),
            None => None,
        };
        let bad = self.records(file, size / PAGE, cipher.as_ref())?;
        if let Some((record, why)) = bad.unreadable {
            let offset = start_of(record);
            self.job.tell(&report.place, Problem::UnreadableFrom { offset, why });
        }
        match (bad.first, cipher) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(Problem::NoHeader),
            (Some(first), Some(_)) => {
                Err(Problem::Records { count: bad.count, first, offset: start_of(first) })
            }
        }
    }

    /// Opens every record that is not a hole of the backing filesystem's own.
    fn records(
        &mut self,
        file: &File,
        count: u64,
        cipher: Option<&Arc<ContentCipher>>,
    ) -> Result<Bad, Problem> {
        let unreadable = |e: io::Error| Problem::Unreadable(errno(&e));
        let mut bad = Bad::default();
        let mut record = 0;
        while record < count && !self.job.is_stopped() {
            match file.seek_data(record * PAGE).map_err(unreadable)? {
                Some(at) => record = record.max(at / PAGE),
                None => break,
            }
            let pages = count.saturating_sub(record).min(PIECE);
            if let Err(e) = self.piece(file, record..record + pages, cipher, &mut bad) {
                // Of a broken disk only some sectors are lost.
                let mut lost = None;
                for page in record..record + pages {
                    if self.piece(file, page..page + 1, cipher, &mut bad).is_err() {
                        lost = lost.or(Some(page));
                    }
                }
                bad.unreadable.get_or_insert((lost.unwrap_or(record), errno(&e)));
            }
            record += pages;
        }
        Ok(bad)
    }

    /// Reads some records, and opens each.
    fn piece(
        &mut self,
        file: &File,
        records: Range<u64>,
        cipher: Option<&Arc<ContentCipher>>,
        bad: &mut Bad,
    ) -> io::Result<()> {
        let len = (records.end - records.start) as usize * PAGE_LEN;
        let got = file.read_at(&mut self.pages[..len], records.start * PAGE)?;
        self.pages[got..len].fill(0);
        for (at, record) in records.enumerate() {
            if !self.is_good(record, at, cipher) {
                bad.count += 1;
                bad.first.get_or_insert(record);
            }
        }
        self.job.bytes.fetch_add(got as u64, Ordering::Relaxed);
        (self.job.progress)(got as u64);
        Ok(())
    }

    fn is_good(&mut self, record: u64, at: usize, cipher: Option<&Arc<ContentCipher>>) -> bool {
        let page = &self.pages[at * PAGE_LEN..(at + 1) * PAGE_LEN];
        match cipher {
            None => is_hole(page),
            Some(cipher) => {
                cipher.open(record, page, &mut self.plain[..capacity(record) as usize]).is_ok()
            }
        }
    }
}

/// The check stopped before the key came.
struct Stopped;

/// Whether a finished operation may leave this size.
fn is_finished(size: u64) -> bool {
    let (pages, rest) = (size / PAGE, size % PAGE);
    size == 0 || (pages > 0 && rest > 0 && rest <= capacity(pages - 1))
}

fn head(file: &File, size: u64) -> Result<Head, Problem> {
    let mut head = [0; HEADER];
    if size < HEADER as u64 {
        return Ok(Head::Empty);
    }
    let got = file.read_at(&mut head, 0).map_err(|e| Problem::Unreadable(errno(&e)))?;
    if got < HEADER {
        return Ok(Head::Empty);
    }
    match parse_header(&head) {
        Ok(FirstPage::Keyed(header)) => Ok(Head::Keyed(header.file)),
        Ok(FirstPage::Keyless) => Ok(Head::Keyless),
        Err(_) => Err(Problem::Header(why(&head))),
    }
}

/// What is wrong with a header that does not parse.
fn why(head: &[u8; HEADER]) -> BadHeader {
    match *head {
        [b'K', b'M', b'F', b'S', 1, 1, a, b, ..] => BadHeader::Flags(u16::from_be_bytes([a, b])),
        [b'K', b'M', b'F', b'S', 1, suite, ..] => BadHeader::Suite(suite),
        [b'K', b'M', b'F', b'S', version, ..] => BadHeader::Version(version),
        _ => BadHeader::Magic,
    }
}
