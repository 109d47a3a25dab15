//! Several programs work with one file in different ways at once: buffered, mapped, past the page
//! cache, and asynchronously so. What one has written, and knows to be written, all others read.
//!
//! A block is full of one number: which block it is, and how often it has been written. Whoever
//! reads looks up first how often it had been written for certain, and finds no less, in any word.
//!
//! `KMSFS_TEST_FULL=1` makes hundreds of thousands of reads of each mount.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use crate::support::aio::{Aio, Block};
use crate::support::mapping::Map;
use crate::support::role::{self, Role, Stamps};
use crate::support::{Store, full_size, skipped, wait_for};

const ROLES: &str = "coherence::a_role";
const BLOCK: u64 = 4096;
/// Blocks of each writer.
const EACH: u64 = 12;
const WRITERS: [&str; 4] = ["direct", "asynchronous", "buffered", "mapped"];
const READERS: [&str; 3] = ["read-direct", "read-buffered", "read-mapped"];
const BLOCKS: u64 = EACH * WRITERS.len() as u64;
/// The stamps: of each block how often it has been written; of each reader, in two processes, how
/// many blocks it has read; whether one read what is old, and of which block.
const READ: usize = BLOCKS as usize;
const STALE: usize = READ + 2 * READERS.len();

fn word(block: u64, times: u64) -> u64 {
    block << 40 | times
}

fn open(folder: &Path, flags: i32) -> File {
    let file = File::options().read(true).write(true).custom_flags(flags).open(folder.join("file"));
    file.expect("the mount is open")
}

/// Writes its blocks round and round, and stamps each when it is written.
fn write(folder: &Path, stamps: &Stamps, writer: usize) {
    let first = writer as u64 * EACH;
    let round = (1u64..).flat_map(|times| (first..first + EACH).map(move |block| (block, times)));
    let stamp = |block: u64, times| stamps.set(usize::try_from(block).expect("small"), times);
    let mut buffer = Box::new(Block([0; 512]));
    match WRITERS[writer] {
        "asynchronous" => {
            let file = open(folder, libc::O_DIRECT);
            const AT_ONCE: usize = EACH as usize / 2;
            let mut aio = Aio::new(&file, AT_ONCE);
            let mut slots: Vec<_> = (0..AT_ONCE).collect();
            let mut written = [(0, 0); AT_ONCE];
            for (block, times) in round {
                let slot = slots.pop().unwrap_or_else(|| {
                    let slot = aio.wait();
                    stamp(written[slot].0, written[slot].1);
                    slot
                });
                written[slot] = (block, times);
                aio.submit(slot, word(block, times), block * BLOCK);
            }
        }
        "mapped" => {
            let map = Map::shared(&open(folder, 0), (BLOCKS * BLOCK) as usize);
            for (block, times) in round {
                for n in 0..512 {
                    map.set_word((block * 512 + n) as usize, word(block, times));
                }
                stamp(block, times);
            }
        }
        how => {
            let file = open(folder, if how == "direct" { libc::O_DIRECT } else { 0 });
            for (block, times) in round {
                buffer.0.fill(word(block, times));
                file.write_all_at(buffer.bytes_mut(), block * BLOCK).expect("written");
                stamp(block, times);
            }
        }
    }
}

/// Reads all blocks round and round, until one is older than what was written before.
fn read(folder: &Path, stamps: &Stamps, reader: usize) {
    let how = READERS[reader % READERS.len()];
    let file = open(folder, if how == "read-direct" { libc::O_DIRECT } else { 0 });
    let map = (how == "read-mapped").then(|| Map::read_only(&file, (BLOCKS * BLOCK) as usize));
    let mut buffer = Box::new(Block([0; 512]));
    for n in 0u64.. {
        let block = n % BLOCKS;
        let times = stamps.get(usize::try_from(block).expect("small"));
        match &map {
            Some(map) => {
                let words = (block * 512) as usize..;
                buffer.0.iter_mut().zip(words).for_each(|(word, at)| *word = map.word(at));
            }
            None => file.read_exact_at(buffer.bytes_mut(), block * BLOCK).expect("readable"),
        }
        let is_good = |found: &u64| *found >= word(block, times) && *found < word(block + 1, 0);
        if !buffer.0.iter().all(is_good) {
            stamps.set(STALE, 1 + reader as u64 * BLOCKS + block);
            return;
        }
        stamps.set(READ + reader, n + 1);
    }
}

/// Not a test: what the processes do that the tests start.
#[test]
#[ignore = "a process that other tests start"]
fn a_role() {
    let Some((role, folder, stamps)) = role::asked() else { return };
    let stamps = Stamps::open(&stamps);
    let (is_writer, numbers) = match role.split_once(' ').expect("a role and its numbers") {
        ("write", numbers) => (true, numbers),
        (_, numbers) => (false, numbers),
    };
    // Each number is a thread of this process.
    std::thread::scope(|scope| {
        for n in numbers.split(',').map(|n| n.parse().expect("a number")) {
            let (folder, stamps) = (&folder, &stamps);
            scope.spawn(move || match is_writer {
                true => write(folder, stamps, n),
                false => read(folder, stamps, n),
            });
        }
    });
}

/// The readers and the writers of the test, each list a process.
fn coherent(options: &[&str]) {
    let store = Store::new(&[]);
    let mount = store.mount(options);
    let (root, at) = (mount.root(), store.outside("stamps"));
    let blocks: Vec<u8> = (0..BLOCKS).flat_map(|b| word(b, 0).to_ne_bytes().repeat(512)).collect();
    std::fs::write(root.join("file"), blocks).expect("made");
    let stamps = Stamps::open(&at);
    let wanted = if full_size() { 100_000 } else { 2_000 };
    let roles = ["write 0,1", "write 2,3", "read 0,1,2", "read 3,4,5"];
    let mut processes = roles.map(|role| Role::start(ROLES, role, &root, &at));
    let has_read = |reader: usize| stamps.get(READ + reader);
    let readers = 0..2 * READERS.len();
    wait_for("enough of reads", Duration::from_secs(600), || {
        let stale = stamps.get(STALE);
        if let Some(n) = stale.checked_sub(1) {
            let (reader, block) = (n / BLOCKS, n % BLOCKS);
            let (how, writer) = (READERS[reader as usize % READERS.len()], block / EACH);
            let writer = WRITERS[usize::try_from(writer).expect("small")];
            panic!("{options:?}: {how} found what is old where the {writer} writer had written");
        }
        assert!(!processes.iter_mut().any(Role::ended), "{options:?}: a process has died");
        readers.clone().all(|reader| has_read(reader) >= wanted)
    });
    drop(processes);
    let read: u64 = readers.map(has_read).sum();
    let written: u64 = (0..BLOCKS).map(|block| stamps.get(block as usize)).sum();
    println!("{options:?}: {written} writes, {read} reads");
}

fn over_each(options: &[&str]) {
    if skipped("fuse") {
        return;
    }
    for transport in ["auto", "off"] {
        coherent(&[&["--io-uring", transport], options].concat());
    }
}

/// With FUSE_ASYNC_DIO a buffered reader beside an asynchronous direct writer kept an old page.
#[test]
fn what_is_written_in_one_way_is_read_in_every_other() {
    over_each(&[]);
}

#[test]
fn what_is_written_in_one_way_is_read_in_every_other_with_writeback() {
    over_each(&["--writeback"]);
}

#[test]
fn what_is_written_in_one_way_is_read_in_every_other_with_direct_io() {
    over_each(&["--direct-io"]);
}
