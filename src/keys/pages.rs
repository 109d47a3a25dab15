//! Sidecar pages of new data keys: their keys are made, their lines written, and then the pool has
//! them.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::keyring::Keyring;
use super::pool::NoKeys;
use super::present::{self, Second};
use super::request::KeyRequest;
use crate::content::{ContentCipher, check};
use crate::ids::{FileId, PageId, SLOTS};
use crate::kms::{Context, KeyArn, KmsError};
use crate::secret::{Key, scrub_stack};
use crate::store::{DataKeys, Line, Page, SecondWrap, WrapKind};
use crate::threads::{Role, spawn_in};

/// A data key and its sidecar line.
type Made = (Line, Arc<ContentCipher>);

/// Makes so many keys. Fewer are no error where the KMS stops giving some.
///
/// # Errors
/// Of the KMS, where it gave none; of the disk.
pub(super) fn make(keyring: &Keyring, wanted: usize) -> Result<(), NoKeys> {
    let _filling = keyring.pool().filling();
    let target = keyring.volume().target();
    match keyring.volume().settings().data_keys {
        DataKeys::PerFile => by_the_kms(keyring, &target, wanted),
        DataKeys::Branch => by_branches(keyring, &target, wanted),
    }
}

/// Whether there is use in more keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GoOn {
    Yes,
    /// The mount locked, or an alias moved.
    No,
}

/// Writes a page and gives its keys to the pool.
fn put(
    keyring: &Keyring,
    target: &KeyArn,
    page: PageId,
    made: Vec<Made>,
) -> Result<GoOn, std::io::Error> {
    if !keyring.gate().is_open() {
        return Ok(GoOn::No);
    }
    let (mut lines, ciphers): (Vec<_>, Vec<_>) = made.into_iter().unzip();
    lines.sort_by_key(|line: &Line| line.slot);
    {
        let _at_store = keyring.files().at_store(KeyRequest::Fresh);
        keyring.store().add_page(page, &Page::of(&lines))?;
    }
    let is_wanted = || keyring.gate().is_open() && keyring.volume().target() == *target;
    if let Err(unused) = keyring.pool().add(ciphers, is_wanted) {
        // Its keys are dropped, its lines never used.
        unused.iter().for_each(|c| keyring.dead().add_unused(c.file()));
        return Ok(GoOn::No);
    }
    keyring.files().answer(KeyRequest::Fresh, Ok(()));
    Ok(GoOn::Yes)
}

/// Keys that are made here and wrapped by the present branch key.
fn by_branches(keyring: &Keyring, target: &KeyArn, wanted: usize) -> Result<(), NoKeys> {
    let mut rest = wanted;
    while rest > 0 && keyring.gate().is_open() {
        let n = rest.min(usize::from(SLOTS));
        let Some(branch) = present::for_new(keyring, n)? else { return Ok(()) };
        let (volume, page) = (keyring.volume().id(), keyring.pool().next_page());
        let make = |slot| {
            let (file, key) = (FileId::new(page, slot), Key::random());
            let kind = WrapKind::Branch(branch.id());
            keyring.branches().origins().tell(branch.id(), file);
            let (wrapped, check) = (branch.wrap(&key, file), check(&key, volume, file));
            let line = Line { slot, kind, key: wrapped, second: None, check };
            (line, Arc::new(ContentCipher::new(&key, volume, file)))
        };
        let made = (0..SLOTS).take(n).map(make).collect();
        scrub_stack();
        if put(keyring, target, page, made).map_err(NoKeys::Disk)? == GoOn::No {
            return Ok(());
        }
        rest -= n;
    }
    Ok(())
}

/// Keys that the KMS makes, side by side. Its calls do not wait for pages: whoever has made the last
/// key of a page writes it while others make those of the next.
fn by_the_kms(keyring: &Keyring, target: &KeyArn, wanted: usize) -> Result<(), NoKeys> {
    let Some(second) = present::for_second(keyring, wanted)? else { return Ok(()) };
    let order = Mutex::new(Order { rest: wanted, ..Order::default() });
    let work = || {
        // A lock is not to find keys on their way: what is left is not asked for.
        while let Some(file) = { order.lock().next(|| keyring.pool().next_page()) } {
            let made = if keyring.gate().is_open() && keyring.wait_for_rate() {
                make_key(keyring, &second, file).inspect_err(|e| keyring.heed(e)).map_err(Some)
            } else {
                Err(None)
            };
            let whole = { order.lock().take_in(file.page(), made) };
            for (page, made) in whole {
                match put(keyring, target, page, made) {
                    Ok(GoOn::Yes) => order.lock().is_served = true,
                    Ok(GoOn::No) => order.lock().end(),
                    Err(e) => order.lock().fail(NoKeys::Disk(e)),
                }
            }
        }
        scrub_stack();
    };
    let threads = keyring.service().parallelism().min(wanted);
    std::thread::scope(|scope| {
        // With fewer threads it takes longer.
        (1..threads).for_each(|_| drop(spawn_in(scope, Role::PoolCall, work)));
        work();
    });
    match order.into_inner() {
        Order { failed: Some(e @ NoKeys::Disk(_)), .. } => Err(e),
        Order { failed: Some(e), is_served: false, .. } => Err(e),
        _ => Ok(()),
    }
}

/// A page of an order.
struct Making {
    page: PageId,
    made: Vec<Made>,
    /// Keys of it that are being made.
    under_way: usize,
    /// Keys of it that nobody makes yet.
    rest: u16,
}

/// Keys that are to be made, page by page. A page is whole when all of its keys have been tried.
#[derive(Default)]
struct Order {
    /// Keys that no page has yet.
    rest: usize,
    pages: VecDeque<Making>,
    failed: Option<NoKeys>,
    /// Whether the pool got some.
    is_served: bool,
}

impl Order {
    /// The next key to make.
    fn next(&mut self, new_page: impl FnOnce() -> PageId) -> Option<FileId> {
        if self.pages.back().is_none_or(|page| page.rest == 0) {
            let rest = u16::try_from(self.rest).unwrap_or(u16::MAX).min(SLOTS);
            if rest == 0 {
                return None;
            }
            self.rest -= usize::from(rest);
            self.pages.push_back(Making { page: new_page(), made: Vec::new(), under_way: 0, rest });
        }
        let page = self.pages.back_mut().expect("it was added where there was none");
        page.rest -= 1;
        page.under_way += 1;
        Some(FileId::new(page.page, page.rest))
    }

    /// Takes a key in that was made, or why it was not (`None`: nobody wants it any more). Answers
    /// the pages that are whole by now.
    fn take_in(
        &mut self,
        page: PageId,
        made: Result<Made, Option<KmsError>>,
    ) -> Vec<(PageId, Vec<Made>)> {
        let making = self.pages.iter_mut().find(|making| making.page == page);
        let making = making.expect("a page stays until all of its keys have been taken in");
        making.under_way -= 1;
        match made {
            Ok(key) => making.made.push(key),
            Err(Some(e)) => self.fail(NoKeys::Kms(e)),
            Err(None) => self.end(),
        }
        let mut whole = Vec::new();
        self.pages.retain_mut(|making| {
            let is_whole = making.under_way == 0 && making.rest == 0;
            if is_whole && !making.made.is_empty() {
                whole.push((making.page, std::mem::take(&mut making.made)));
            }
            !is_whole
        });
        whole
    }

    /// No further key is to be made.
    fn end(&mut self) {
        self.rest = 0;
        self.pages.iter_mut().for_each(|page| page.rest = 0);
    }

    /// No further key is to be made, and why: the first reason, but a disk's before a KMS's.
    fn fail(&mut self, why: NoKeys) {
        self.end();
        if matches!((&self.failed, &why), (None, _) | (_, NoKeys::Disk(_))) {
            self.failed = Some(why);
        }
    }
}

fn make_key(keyring: &Keyring, second: &Second, file: FileId) -> Result<Made, KmsError> {
    let volume = keyring.volume().id();
    let context = Context::file(volume, file);
    let made = keyring.volume().generate(keyring.service(), &context)?;
    keyring.masters().saw(&made.master, &made.wrapped, &context);
    let second = match second {
        Second::None => None,
        Second::By(branch) => {
            Some(SecondWrap { branch: branch.id(), key: branch.wrap(&made.key, file) })
        }
    };
    let line = Line {
        slot: file.slot(),
        kind: WrapKind::Master(made.master),
        key: made.wrapped,
        second,
        check: check(&made.key, volume, file),
    };
    Ok((line, Arc::new(ContentCipher::new(&made.key, volume, file))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeId;
    use crate::kms::{Verdict, Wrapped};

    fn key(file: FileId) -> Made {
        let plain = Key::random();
        let volume = VolumeId([1; 16]);
        let kind = WrapKind::Master(KeyArn("arn:key/1".to_owned()));
        let check = check(&plain, volume, file);
        let (slot, key) = (file.slot(), Wrapped(vec![1]));
        let line = Line { slot, kind, key, second: None, check };
        (line, Arc::new(ContentCipher::new(&plain, volume, file)))
    }

    fn order(rest: usize) -> (Order, impl FnMut() -> PageId) {
        let mut page = PageId([0; 14]);
        let new_page = move || {
            page = page.next();
            page
        };
        (Order { rest, ..Order::default() }, new_page)
    }

    /// 150 keys are two whole pages and a part of one, however their keys come in.
    #[test]
    fn each_page_is_whole_once_and_has_each_of_its_keys() {
        let (mut order, mut new_page) = order(150);
        let mut files: Vec<_> = std::iter::from_fn(|| order.next(&mut new_page)).collect();
        assert_eq!(files.len(), 150);
        files.sort_by_key(|file| file.0.map(|byte| byte.wrapping_mul(101)));
        let mut sizes = Vec::new();
        for file in files {
            for (page, made) in order.take_in(file.page(), Ok(key(file))) {
                let mut slots: Vec<_> = made.iter().map(|(line, _)| line.slot).collect();
                slots.sort_unstable();
                assert!(slots.iter().copied().eq(0..slots.len() as u16));
                sizes.push((page, slots.len()));
            }
        }
        sizes.sort_unstable();
        let page = |n| PageId([0; 14]).next().0[0] + n;
        let found: Vec<_> = sizes.iter().map(|(id, size)| (id.0[0], *size)).collect();
        assert_eq!(found, [(page(0), 64), (page(1), 64), (page(2), 22)]);
        assert!(order.pages.is_empty());
    }

    #[test]
    fn after_a_failure_what_was_made_is_kept_and_no_more_is_begun() {
        let (mut order, mut new_page) = order(150);
        let files = [0; 3].map(|_| order.next(&mut new_page).expect("150 are wanted"));
        assert!(order.take_in(files[0].page(), Ok(key(files[0]))).is_empty());
        let refused = KmsError::new(Verdict::Refused, "DisabledException", "it is disabled");
        assert!(order.take_in(files[1].page(), Err(Some(refused))).is_empty(), "one is under way");
        assert!(order.next(&mut new_page).is_none());
        let whole = order.take_in(files[2].page(), Ok(key(files[2])));
        assert_eq!(whole.iter().map(|(_, made)| made.len()).collect::<Vec<_>>(), [2]);
        assert!(matches!(order.failed, Some(NoKeys::Kms(_))));
        order.fail(NoKeys::Disk(std::io::ErrorKind::StorageFull.into()));
        assert!(
            matches!(order.failed, Some(NoKeys::Disk(_))),
            "nothing helps as long as it is full"
        );
    }
}
