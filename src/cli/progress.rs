//! Bars for work that takes a while: on a terminal alone, with the rate and the time left.

use std::collections::HashSet;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use crate::disk::{Dir, Entry, FileKind};

/// A bar over so many keys.
pub(super) fn keys(total: u64) -> ProgressBar {
    let bar = bar("{bar:30} {pos} of {len} keys, {per_sec}, {eta} left");
    bar.set_length(total);
    bar
}

/// A bar over the entries of a tree, with a message of what was done.
pub(super) fn entries(tree: &Dir) -> ProgressBar {
    over(tree, "{bar:30} {pos} of {len} entries, {per_sec}, {eta} left, {msg}", entries_of)
}

/// A bar over the bytes of a tree's files, as they lie on disk.
pub(super) fn bytes(tree: &Dir) -> ProgressBar {
    over(tree, "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left", bytes_of)
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    // Hidden by itself where stderr is no terminal.
    ProgressBar::no_length().with_style(style)
}

/// The tree is gone through once before, so that there is an end to the bar. Where nobody sees
/// it, it is not.
fn over(tree: &Dir, template: &str, end: impl Fn(&Dir) -> u64) -> ProgressBar {
    let bar = bar(template);
    if !bar.is_hidden() {
        bar.set_length(end(tree));
    }
    bar
}

/// How many entries a tree has, about: a folder that cannot be listed counts as one.
fn entries_of(tree: &Dir) -> u64 {
    let mut found = 0;
    walk(tree, &mut |_, _| found += 1);
    found
}

/// How many bytes the files of a tree have on the disk; one with several names counts once.
fn bytes_of(tree: &Dir) -> u64 {
    let (mut found, mut linked) = (0, HashSet::new());
    walk(tree, &mut |dir, entry| {
        if entry.kind.is_some_and(|kind| kind != FileKind::File) {
            return;
        }
        let Ok(stat) = dir.stat(&entry.name) else { return };
        if stat.kind() == FileKind::File && (stat.nlink < 2 || linked.insert(stat.ino)) {
            found += stat.size.min(stat.blocks * 512);
        }
    });
    found
}

/// Visits every entry of a tree but those of folders that cannot be listed.
fn walk(tree: &Dir, visit: &mut dyn FnMut(&Dir, &Entry)) {
    let mut folders = vec![PathBuf::new()];
    while let Some(path) = folders.pop() {
        let Ok(dir) = path.iter().try_fold(tree.clone(), |dir, name| dir.open_dir(name)) else {
            continue;
        };
        let _ = dir.list(0, &mut |entry| {
            if entry.name != "." && entry.name != ".." {
                visit(&dir, &entry);
                // Not every filesystem lists kinds.
                let kind = entry.kind.or_else(|| Some(dir.stat(&entry.name).ok()?.kind()));
                if kind == Some(FileKind::Dir) {
                    folders.push(path.join(entry.name));
                }
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::disk;

    #[test]
    fn a_tree_is_as_large_as_what_is_read_of_it() {
        let temp = tempfile::tempdir().expect("a folder");
        let (folder, file) = (temp.path().join("a/b"), temp.path().join("a/b/file"));
        fs::create_dir_all(folder).expect("made");
        fs::write(&file, vec![1; 10_000]).expect("written");
        fs::hard_link(&file, temp.path().join("a/again")).expect("linked");
        let hole = fs::File::create(temp.path().join("hole")).expect("made");
        hole.set_len(1 << 30).expect("extended");
        let tree = disk::open_dir(temp.path()).expect("opened");
        assert_eq!(entries_of(&tree), 5);
        let bytes = bytes_of(&tree);
        assert!((10_000..1 << 20).contains(&bytes), "{bytes}");
    }

    #[test]
    fn every_template_can_be_drawn() {
        let temp = tempfile::tempdir().expect("a folder");
        let tree = disk::open_dir(temp.path()).expect("opened");
        for bar in [keys(10), entries(&tree), bytes(&tree)] {
            bar.inc(1);
            bar.finish_and_clear();
        }
    }
}
