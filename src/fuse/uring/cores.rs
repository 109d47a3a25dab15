//! The cores of this machine, and which of them a thread runs on.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// The numbers in a list of the kernel's (`0-3,8`).
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten().collect()
}

/// Those that are `online`, or `possible`.
pub(super) fn cores(which: &str) -> io::Result<Vec<usize>> {
    Ok(numbers(&fs::read_to_string(format!("/sys/devices/system/cpu/{which}"))?))
}

/// Every `of`-th core from the one at `from` on: with as many threads as there are, the
/// scheduler can neither put two of them on one core while another stands idle, nor keep one
/// from getting out of a program's way where there are more cores than threads.
pub(super) fn share(cores: &[usize], from: usize, of: usize) -> Vec<usize> {
    match cores.len() {
        0 => Vec::new(),
        n => cores.iter().copied().skip(from % n).step_by(of.max(1)).collect(),
    }
}

/// Has this thread run on these cores. In a cpuset without any of them it runs elsewhere, only
/// slower.
pub(super) fn pin(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().filter(|core| **core < CpuSet::MAX_CPU).for_each(|core| set.set(*core));
    let _ = sched_setaffinity(None, &set);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(numbers("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(numbers("0\n"), [0]);
        assert_eq!(numbers("\n"), [] as [usize; 0]);
    }

    #[test]
    fn threads_share_the_cores_out() {
        assert_eq!(share(&[0, 1], 1, 2), [1]);
        assert_eq!(share(&[0, 1, 2, 3, 8], 1, 2), [1, 3]);
        assert_eq!(share(&[4], 1, 2), [4], "more threads than cores");
    }
}
