//! `.kmsfs`: its folders, sidecar pages, branch keys and link bodies, compared with what the tree
//! refers to.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::Path;

use super::Job;
use super::finding::{Place, Problem, errno};
use super::repair::{Repair, Slots};
use crate::durable;
use crate::ids::{BranchId, FileId, LinkId, PageId};
use crate::store::{Copy, Folder, Page, WrapKind};

/// What is known of branch keys when all pages have been seen.
#[derive(Default)]
struct Branches {
    /// Those that lines of files say.
    used: HashSet<BranchId>,
    /// Whether a line that cannot be read may say another.
    is_unsure: bool,
}

/// Checks it all, after the tree.
pub(super) fn check(job: &Job<'_>) {
    let mut branches = Branches::default();
    for folder in Folder::all().filter(|f| *f != Folder::Branch).chain([Folder::Branch]) {
        if job.is_stopped() {
            return;
        }
        match job.fsck.store.names_in(folder) {
            Ok(names) => {
                for name in &names {
                    entry(job, folder, name, &mut branches);
                }
                if folder == Folder::Branch {
                    missing_branches(job, &names, &branches);
                }
            }
            Err(e) => {
                branches.is_unsure |= matches!(folder, Folder::Keys(_));
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

fn entry(job: &Job<'_>, folder: Folder, name: &OsStr, branches: &mut Branches) {
    let place = Place::Store(Path::new(&folder.to_string()).join(name));
    if durable::is_leftover(name) {
        return job.tell_repairable(place, Problem::Temporary, Repair::Temporary);
    }
    let text = name.to_str().unwrap_or_default();
    let is_known = match folder {
        Folder::Meta => is_of_meta(text),
        Folder::Keys(shard) => match PageId::parse(text).ok().filter(|p| p.0[0] == shard) {
            Some(page) => return check_page(job, page, place, branches),
            None => false,
        },
        Folder::Links(shard) => match LinkId::parse(text).ok().filter(|l| l.0[0] == shard) {
            Some(link) => {
                if !job.bodies.lock().contains(&link) {
                    job.tell_repairable(place, Problem::UnusedBody, Repair::Body(link));
                }
                return;
            }
            None => false,
        },
        Folder::Branch => match BranchId::parse(text) {
            Ok(branch) => return check_branch(job, branch, place, branches),
            Err(_) => false,
        },
    };
    if !is_known {
        job.tell(&place, Problem::UnknownEntry);
    }
}

fn is_of_meta(name: &str) -> bool {
    let copies = [Copy::First, Copy::Second].map(|copy| copy.to_string());
    let is_copy = copies.iter().any(|path| path.rsplit_once('/').is_some_and(|(_, n)| n == name));
    is_copy || ["lock", "keys", "links", "branch"].contains(&name)
}

fn check_page(job: &Job<'_>, id: PageId, place: Place, branches: &mut Branches) {
    let page = match job.fsck.store.read_page(id) {
        Ok(page) => page.unwrap_or_default(),
        Err(e) => {
            branches.is_unsure = true;
            return job.tell(&place, Problem::Unreadable(errno(&e)));
        }
    };
    if page.is_empty() {
        let repair = Repair::Lines(id, Slots::default());
        return job.tell_repairable(place, Problem::EmptyPage, repair);
    }
    if page.damaged() > 0 {
        branches.is_unsure = true;
        job.tell(&place, Problem::BadLines(page.damaged()));
    }
    check_lines(job, id, &page, place, branches);
}

fn check_lines(job: &Job<'_>, id: PageId, page: &Page, place: Place, branches: &mut Branches) {
    let ids = job.ids.lock();
    let mut lines: BTreeMap<u16, u64> = BTreeMap::new();
    let mut unused = Slots::default();
    for line in page.readable() {
        *lines.entry(line.slot).or_default() += 1;
        if !ids.contains(&FileId::new(id, line.slot)) {
            unused.add(line.slot);
        } else if let WrapKind::Branch(branch) = line.kind {
            branches.used.insert(branch);
        }
    }
    drop(ids);
    for (slot, _) in lines.iter().filter(|(slot, n)| **n > 1 && !unused.has(**slot)) {
        job.tell(&place, Problem::SameSlot(*slot));
    }
    let count = lines.iter().filter(|(slot, _)| unused.has(**slot)).map(|(_, n)| *n).sum::<u64>();
    if count > 0 {
        let what = Problem::UnusedLines(usize::try_from(count).unwrap_or(usize::MAX));
        job.tell_repairable(place, what, Repair::Lines(id, unused));
    }
}

fn check_branch(job: &Job<'_>, id: BranchId, place: Place, branches: &Branches) {
    match job.fsck.store.read_branch(id) {
        Ok(_) if branches.used.contains(&id) => {}
        Ok(_) if branches.is_unsure => job.tell(&place, Problem::UnusedBranch),
        Ok(_) => job.tell_repairable(place, Problem::UnusedBranch, Repair::Branch(id)),
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            job.tell(&place, Problem::BadBranch);
        }
        Err(e) => job.tell(&place, Problem::Unreadable(errno(&e))),
    }
}

fn missing_branches(job: &Job<'_>, names: &[std::ffi::OsString], branches: &Branches) {
    let there: HashSet<BranchId> =
        names.iter().filter_map(|n| BranchId::parse(n.to_str()?).ok()).collect();
    for branch in branches.used.difference(&there) {
        let place = Place::Store(format!("{}/{branch}", Folder::Branch).into());
        job.tell(&place, Problem::NoBranch);
    }
}
