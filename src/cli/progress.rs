//! Bars for work that takes a while: on a terminal alone, with the rate and the time left.

use std::collections::HashSet;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};

use crate::disk::{Dir, FileKind};

/// A bar over so many keys.
pub(super) fn keys(total: u64) -> ProgressBar {
    let bar = bar("{bar:30} {pos} of {len} keys, {per_sec}, {eta} left");
    bar.set_length(total);
    bar
}

/// A bar over the entries of a tree, with a message of what was done.
pub(super) fn entries(tree: &Dir) -> ProgressBar {
    over(tree, "{bar:30} {pos} of {len} entries, {per_sec}, {eta} left, {msg}", |size| size.entries)
}

/// A bar over the bytes of a tree's files, as they lie on disk.
pub(super) fn bytes(tree: &Dir) -> ProgressBar {
    over(tree, "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left", |size| size.bytes)
}

fn bar(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    // Hidden by itself where stderr is no terminal.
    ProgressBar::no_length().with_style(style)
}

/// The tree is gone through once before, so that there is an end to the bar. Where nobody sees
/// it, it is not.
fn over(tree: &Dir, template: &str, end: impl Fn(&Size) -> u64) -> ProgressBar {
    let bar = bar(template);
    if !bar.is_hidden() {
        bar.set_length(end(&Size::of(tree)));
    }
    bar
}

/// How large a tree is, about: a folder that cannot be listed counts as one entry.
#[derive(Debug, Default, PartialEq, Eq)]
struct Size {
    entries: u64,
    /// Of files that have room on the disk; one with several names counts once.
    bytes: u64,
}

impl Size {
    fn of(tree: &Dir) -> Self {
        let (mut size, mut linked) = (Self::default(), HashSet::new());
        let mut folders = vec![PathBuf::new()];
        while let Some(path) = folders.pop() {
            let Ok(dir) = path.iter().try_fold(tree.clone(), |dir, name| dir.open_dir(name)) else {
                continue;
            };
            let _ = dir.list(0, &mut |entry| {
                if entry.name == "." || entry.name == ".." {
                    return true;
                }
                size.entries += 1;
                let Ok(stat) = dir.stat(&entry.name) else { return true };
                match stat.kind() {
                    FileKind::Dir => folders.push(path.join(&entry.name)),
                    FileKind::File if stat.nlink < 2 || linked.insert(stat.ino) => {
                        size.bytes += stat.size.min(stat.blocks * 512);
                    }
                    _ => {}
                }
                true
            });
        }
        size
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
        let size = Size::of(&tree);
        assert_eq!(size.entries, 5);
        assert!((10_000..1 << 20).contains(&size.bytes), "{size:?}");
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
