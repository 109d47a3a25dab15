//! The file of lines, compared with what the writer's fsync acknowledged.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::role::{self, LINES};
use super::verdict::Lines;
use crate::console::failure::Failure;

/// Begins the file anew, as the writer begins its numbers.
///
/// # Errors
/// When the old one cannot be removed.
pub fn begin(mountpoint: &Path) -> Result<(), Failure> {
    let path = mountpoint.join(LINES);
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::io(&path, &e)),
        _ => Ok(()),
    }
}

/// What is in the file; `None` where it cannot be read, which is told.
pub fn count(mountpoint: &Path, acknowledged: impl Iterator<Item = u64>) -> Option<Lines> {
    let path = mountpoint.join(LINES);
    match fs::read_to_string(&path) {
        Ok(text) => Some(compare(&text, acknowledged)),
        Err(e) => {
            Failure::io(&path, &e).print();
            None
        }
    }
}

fn compare(text: &str, acknowledged: impl Iterator<Item = u64>) -> Lines {
    let there: HashSet<&str> = text.split_inclusive('\n').collect();
    let mut lines = Lines { acknowledged: 0, found: 0 };
    for number in acknowledged {
        lines.acknowledged += 1;
        lines.found += u64::from(there.contains(role::line(number).as_str()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_counts_only_if_it_is_whole() {
        let text: String = (1..=4).filter(|n| *n != 2).map(role::line).collect();
        let wanted = Lines { acknowledged: 3, found: 2 };
        assert_eq!(compare(&text, [1, 2, 3].into_iter()), wanted);
        assert_eq!(compare(text.trim_end(), [1, 3, 4].into_iter()), wanted, "the last is torn");
        // One that was not acknowledged may be there.
        assert_eq!(compare(&text, [1].into_iter()), Lines { acknowledged: 1, found: 1 });
    }
}
