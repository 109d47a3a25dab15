//! What lies beside the tree: folders, sidecar pages, branch keys and link bodies, compared with
//! what the tree refers to.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use super::Job;
use super::finding::{Place, Problem, errno};
use super::repair::{Repair, Slots};
use crate::durable;
use crate::ids::{BranchId, FileId, LinkId, PageId};
use crate::keys::{self, SealedOf};
use crate::store::{Folder, Page, Removed, WrapKind};

/// What is known of what lies beside the tree, while it is gone through.
#[derive(Default)]
struct Beside {
    /// What was removed, and is in its grace.
    kept: HashSet<Removed>,
    /// The branch keys that lines of files say.
    used: HashSet<BranchId>,
    /// Whether a line that cannot be read may say another.
    is_unsure: bool,
    /// Whether every key is to be sealed to recipients of a recovery.
    is_recoverable: bool,
}

/// Checks it all, after the tree.
pub(super) fn check(job: &Job<'_>) {
    let is_recoverable = job.fsck.keyring.volume().settings().recovery.is_some();
    let mut beside = Beside { kept: journal(job), is_recoverable, ..Beside::default() };
    for folder in Folder::all().filter(|f| *f != Folder::Branch).chain([Folder::Branch]) {
        if job.is_stopped() {
            return;
        }
        match job.fsck.store.names_in(folder) {
            Ok(names) => {
                for name in &names {
                    entry(job, folder, name, &mut beside);
                }
                if folder == Folder::Branch {
                    missing_branches(job, &names, &beside);
                }
            }
            Err(e) => {
                beside.is_unsure |= matches!(folder, Folder::Pages(_));
                let place = Place::Store(folder.to_string().into());
                if e.raw_os_error() == Some(libc::ENOENT) {
                    job.tell_repairable(place, Problem::NoFolder, Repair::Folder(folder));
                } else {
                    job.tell(&place, Problem::Unreadable(errno(&e)));
                }
            }
        }
    }
}

/// What the journal names. Where it cannot be read nothing is removed: see [`check`].
fn journal(job: &Job<'_>) -> HashSet<Removed> {
    let store = &job.fsck.store;
    let periods = store.removed_periods().unwrap_or_default();
    let mut kept = HashSet::new();
    for end in periods {
        match store.removed_in(end) {
            Ok(all) => kept.extend(all),
            Err(e) => {
                let place = Place::Store(format!("{}/{end}", Folder::Removed).into());
                job.tell(&place, Problem::Unreadable(errno(&e)));
            }
        }
    }
    kept
}

fn entry(job: &Job<'_>, folder: Folder, name: &OsStr, beside: &mut Beside) {
    let place = Place::Store(Path::new(&folder.to_string()).join(name));
    if durable::is_leftover(name) {
        return job.tell_repairable(place, Problem::Temporary, Repair::Temporary);
    }
    let text = name.to_str().unwrap_or_default();
    let is_known = match folder {
        Folder::Top | Folder::Keys | Folder::Links | Folder::Removed => folder.expects(name),
        Folder::Pages(shard) => match PageId::parse(text).ok().filter(|p| p.0[0] == shard) {
            Some(page) => return check_page(job, page, place, beside),
            None => false,
        },
        Folder::Bodies(shard) => match LinkId::parse(text).ok().filter(|l| l.0[0] == shard) {
            Some(link) => {
                let is_kept = |link| beside.kept.contains(&Removed::Body(link));
                if !job.bodies.lock().contains(&link) && !is_kept(link) {
                    job.tell_repairable(place, Problem::UnusedBody, Repair::Body(link));
                }
                return;
            }
            None => false,
        },
        Folder::Branch => match BranchId::parse(text) {
            Ok(branch) => return check_branch(job, branch, place, beside),
            Err(_) => false,
        },
    };
    if !is_known {
        let repair = Repair::Aside(Path::new(&folder.to_string()).join(name));
        job.tell_repairable(place, Problem::UnknownEntry, repair);
    }
}

fn check_page(job: &Job<'_>, id: PageId, place: Place, beside: &mut Beside) {
    let page = match job.fsck.store.read_page(id) {
        Ok(page) => page.unwrap_or_default(),
        Err(e) => {
            beside.is_unsure = true;
            return job.tell(&place, Problem::Unreadable(errno(&e)));
        }
    };
    if page.is_empty() {
        let repair = Repair::Lines(id, Slots::default());
        return job.tell_repairable(place, Problem::EmptyPage, repair);
    }
    if page.damaged() > 0 {
        beside.is_unsure = true;
        job.tell(&place, Problem::BadLines(page.damaged()));
    }
    check_lines(job, id, &page, place, beside);
}

fn check_lines(job: &Job<'_>, id: PageId, page: &Page, place: Place, beside: &mut Beside) {
    let ids = job.ids.lock();
    let mut lines: BTreeMap<u16, u64> = BTreeMap::new();
    let mut unused = Slots::default();
    let mut lost = 0;
    for line in page.readable() {
        *lines.entry(line.slot).or_default() += 1;
        let file = FileId::new(id, line.slot);
        if !ids.contains(&file) && !beside.kept.contains(&Removed::Line(file)) {
            unused.add(line.slot);
            continue;
        }
        match (line.kind, line.second) {
            (WrapKind::Branch(branch), _) => drop(beside.used.insert(branch)),
            (WrapKind::Master(_), Some(second)) => drop(beside.used.insert(second.branch)),
            (WrapKind::Master(_), None) => lost += usize::from(beside.is_recoverable),
        }
    }
    drop(ids);
    if lost > 0 {
        job.tell(&place, Problem::NoSecond(lost));
    }
    for (slot, _) in lines.iter().filter(|(slot, n)| **n > 1 && !unused.has(**slot)) {
        job.tell(&place, Problem::SameSlot(*slot));
    }
    let count = lines.iter().filter(|(slot, _)| unused.has(**slot)).map(|(_, n)| *n).sum::<u64>();
    if count > 0 {
        let what = Problem::UnusedLines(usize::try_from(count).unwrap_or(usize::MAX));
        job.tell_repairable(place, what, Repair::Lines(id, unused));
    }
}

fn check_branch(job: &Job<'_>, id: BranchId, place: Place, beside: &Beside) {
    match job.fsck.store.read_branch(id) {
        Ok(file) if beside.used.contains(&id) => {
            let sealed = file.recovery.as_ref();
            let is_own = |sealed| keys::is_own_seal(&job.names, SealedOf::Branch(id), sealed);
            if beside.is_recoverable && !sealed.is_some_and(is_own) {
                job.tell(&place, Problem::NotSealed);
            }
        }
        Ok(_) if beside.is_unsure => job.tell(&place, Problem::UnusedBranch),
        Ok(_) => job.tell_repairable(place, Problem::UnusedBranch, Repair::Branch(id)),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            job.tell(&place, Problem::BadBranch);
        }
        Err(e) => job.tell(&place, Problem::Unreadable(errno(&e))),
    }
}

fn missing_branches(job: &Job<'_>, names: &[std::ffi::OsString], beside: &Beside) {
    let there: HashSet<BranchId> =
        names.iter().filter_map(|n| BranchId::parse(n.to_str()?).ok()).collect();
    for branch in beside.used.difference(&there) {
        let place = Place::Store(format!("{}/{branch}", Folder::Branch).into());
        job.tell(&place, Problem::NoBranch);
    }
}
