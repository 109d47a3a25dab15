//! What `bench` times.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::content::ContentCipher;
use crate::ids::{FileId, PageId, VolumeId};
use crate::secret::{Key, random_nonce};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// How long work without a natural end goes on.
const WHILE: Duration = Duration::from_secs(2);

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Unit {
    #[serde(rename = "MiB/s")]
    Throughput,
    #[serde(rename = "1/s")]
    Rate,
    #[serde(rename = "µs each")]
    Latency,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "MiB/s",
            Self::Rate => "/s",
            Self::Latency => "µs each",
        }
    }

    pub(super) fn more_is_better(self) -> bool {
        self != Self::Latency
    }
}

/// One measurement.
pub(super) struct Figure {
    pub(super) what: &'static str,
    pub(super) unit: Unit,
    pub(super) value: f64,
}

/// How much work.
pub(super) struct Size {
    /// Of the large file.
    pub(super) mib: u32,
    /// How many small files.
    pub(super) files: u32,
}

/// GiB/s that one core seals and opens in records of 4 KiB.
pub(super) fn cipher() -> (f64, f64) {
    let file = FileId::new(PageId::random(), 0);
    let cipher = ContentCipher::new(&Key::random(), VolumeId::random(), file);
    let plain = [7; PAGE - 28];
    let (mut page, mut out) = (vec![0; PAGE], vec![0; PAGE - 28]);
    let rate = |work: &mut dyn FnMut()| {
        let (began, mut records) = (Instant::now(), 0_u32);
        while began.elapsed() < WHILE / 4 {
            (0..256).for_each(|_| work());
            records += 256;
        }
        f64::from(records) * PAGE as f64 / began.elapsed().as_secs_f64() / (1 << 30) as f64
    };
    let seal = rate(&mut || cipher.seal(1, &plain, black_box(&mut page), random_nonce()));
    let open = rate(&mut || {
        let _ = black_box(cipher.open(1, &page, &mut out));
    });
    (seal, open)
}

/// Does all work in a folder; `cool` empties the kernel's caches as far as it can.
///
/// # Errors
/// Of the folder's filesystem.
pub(super) fn measure(
    folder: &Path,
    size: &Size,
    cool: &dyn Fn() -> io::Result<()>,
) -> io::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut note = |what, unit, value| figures.push(Figure { what, unit, value });
    let large = folder.join("large");
    let mib = f64::from(size.mib);
    note("write, 1 MiB each, fsync", Unit::Throughput, mib / write(&large, size.mib)?);
    cool()?;
    note("read, 1 MiB each", Unit::Throughput, mib / read(&large)?);
    note("read again, cached", Unit::Throughput, mib / read(&large)?);
    let pages = u64::from(size.mib) * (MIB / PAGE) as u64;
    cool()?;
    let file = File::options().read(true).write(true).open(&large)?;
    let mut page = [1; PAGE];
    let at = |n| scattered(n, pages) * PAGE as u64;
    note("read, 4 KiB, random", Unit::Rate, rate(pages, |n| file.read_exact_at(&mut page, at(n)))?);
    note(
        "write, 4 KiB, random",
        Unit::Rate,
        rate(pages, |n| file.write_all_at(&[2; PAGE], at(n)))?,
    );
    let synced = |n| file.write_all_at(&[3; PAGE], at(n)).and_then(|()| file.sync_data());
    note("write, 4 KiB, fdatasync", Unit::Latency, 1e6 / rate(pages, synced)?);
    drop(file);
    fs::remove_file(&large)?;
    let files = f64::from(size.files);
    let small = |n: u32| folder.join(format!("{}/{n}", n / 100));
    let each = |work: &mut dyn FnMut(u32) -> io::Result<()>| -> io::Result<f64> {
        let began = Instant::now();
        (0..size.files).try_for_each(work)?;
        Ok(1e6 * began.elapsed().as_secs_f64() / files)
    };
    let mut make = |n| {
        if n % 100 == 0 {
            fs::create_dir(folder.join(format!("{}", n / 100)))?;
        }
        fs::write(small(n), vec![4; 3000])
    };
    note("create a file of 3 kB", Unit::Latency, each(&mut make)?);
    cool()?;
    note("stat", Unit::Latency, each(&mut |n| fs::symlink_metadata(small(n)).map(drop))?);
    note("open, read, close", Unit::Latency, each(&mut |n| fs::read(small(n)).map(drop))?);
    note("remove", Unit::Latency, each(&mut |n| fs::remove_file(small(n)))?);
    Ok(figures)
}

/// Seconds to write and sync a file.
fn write(path: &Path, mib: u32) -> io::Result<f64> {
    let block = vec![5; MIB];
    let began = Instant::now();
    let mut file = File::create(path)?;
    (0..mib).try_for_each(|_| file.write_all(&block))?;
    file.sync_all()?;
    Ok(began.elapsed().as_secs_f64())
}

/// Seconds to read a file.
fn read(path: &Path) -> io::Result<f64> {
    let mut block = vec![0; MIB];
    let began = Instant::now();
    let mut file = File::open(path)?;
    while file.read(&mut block)? > 0 {}
    Ok(began.elapsed().as_secs_f64())
}

/// How often a second something can be done, of `most` times.
fn rate(most: u64, mut work: impl FnMut(u64) -> io::Result<()>) -> io::Result<f64> {
    let (began, mut done) = (Instant::now(), 0_u64);
    while done < most && began.elapsed() < WHILE {
        work(done)?;
        done += 1;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

/// The n-th of all pages, out of order; none comes twice before all came once, for the step is a
/// prime that no number of pages here is a multiple of.
fn scattered(n: u64, pages: u64) -> u64 {
    n.wrapping_mul(1_000_003) % pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_pages_are_all_of_them() {
        let mut met: Vec<_> = (0..4096).map(|n| scattered(n, 4096)).collect();
        met.sort_unstable();
        assert!(met.iter().copied().eq(0..4096));
    }

    #[test]
    fn all_work_is_done_and_nothing_large_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let size = Size { mib: 16, files: 100 };
        let figures = measure(folder.path(), &size, &|| Ok(())).expect("it works");
        assert_eq!(figures.len(), 10);
        assert!(figures.iter().all(|f| f.value > 0.0));
        assert!(!folder.path().join("large").exists());
    }
}
