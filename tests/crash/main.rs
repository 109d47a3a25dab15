//! Cuts the power between all writes of the record layer, over a simulated disk.
//!
//! After every operation of a script, for everything that a disk may then hold:
//! - no record is unreadable;
//! - a byte that was synced and not touched since reads back;
//! - any other byte is a value that stood there since the last sync, or zero;
//! - the size is between the smallest and the largest since the last sync.
//!
//! Above the record layer, see `tree`.
//!
//! `KMSFS_TEST_FULL=1` runs all scripts of four operations over every operation, for minutes.

#[path = "../support/simulated.rs"]
mod simulated;

mod attributes;
mod driver;
mod history;
mod init;
mod model;
mod random;
mod removal;
mod scripts;
mod tree;

use driver::Driver;
use model::{Model, Op, check_crashes};

/// Where operations begin and end: in, before, at and behind the edges of records.
const EDGES: [u64; 8] = [0, 100, 4044, 4100, 8112, 8200, 12180, 12300];

/// Operations over [`EDGES`] by index.
const FEW: [Op; 10] = [
    Op::Write(0, 1),
    Op::Write(0, 2),
    Op::Write(1, 3),
    Op::Write(2, 3),
    Op::Write(4, 5),
    Op::Truncate(1),
    Op::Truncate(3),
    Op::Truncate(0),
    Op::Punch(1, 4),
    Op::Sync,
];

const MORE: [Op; 12] = [
    Op::Write(0, 4),
    Op::Write(2, 4),
    Op::Write(3, 5),
    Op::Write(1, 2),
    Op::Write(6, 7),
    Op::Truncate(2),
    Op::Truncate(4),
    Op::Truncate(5),
    Op::Punch(0, 2),
    Op::Punch(2, 4),
    Op::Punch(0, 1),
    Op::Punch(0, 7),
];

fn is_full() -> bool {
    std::env::var_os("KMSFS_TEST_FULL").is_some_and(|v| v == "1")
}

fn explore(driver: &Driver, model: &Model, ops: &[Op], script: &mut Vec<Op>, depth: usize) {
    for op in ops {
        script.push(*op);
        let (mut driver, mut model) = (driver.fork(), model.clone());
        let value = u8::try_from(script.len()).expect("scripts are short");
        driver.run(*op, value).unwrap_or_else(|e| panic!("{script:?}: {e:?}"));
        model.apply(*op, value);
        let seen = driver.read().unwrap_or_else(|e| panic!("{script:?}: {e:?}"));
        assert_eq!(model::cells(&seen), Ok(model.present().to_vec()), "{script:?}");
        if let Err(why) = check_crashes(&driver, &model, usize::MAX, 0) {
            panic!("{script:?}: {why}");
        }
        if depth > 1 {
            explore(&driver, &model, ops, script, depth - 1);
        }
        script.pop();
    }
}

/// All scripts of up to `depth` operations, their first ones shared out among two threads.
fn explore_all(ops: &[Op], depth: usize) {
    let (left, right) = ops.split_at(ops.len() / 2);
    std::thread::scope(|scope| {
        for half in [left, right] {
            scope.spawn(move || {
                for first in half {
                    let (mut driver, mut model) = (Driver::new(), Model::default());
                    driver.run(*first, 1).unwrap_or_else(|e| panic!("{first:?}: {e:?}"));
                    model.apply(*first, 1);
                    check_crashes(&driver, &model, usize::MAX, 0)
                        .unwrap_or_else(|why| panic!("{first:?}: {why}"));
                    explore(&driver, &model, ops, &mut vec![*first], depth - 1);
                }
            });
        }
    });
}

#[test]
fn every_script_of_four_operations() {
    if is_full() {
        explore_all(&[&FEW[..], &MORE[..]].concat(), 4);
    } else {
        explore_all(&FEW, 4);
    }
}

#[test]
fn every_script_of_three_operations_over_all_edges() {
    explore_all(&[&FEW[..], &MORE[..]].concat(), 3);
}

/// Padding is looked at once: a later look sees zeros that are in the page cache alone.
#[test]
fn padding_that_was_not_zero_is_synced_even_if_nothing_grows() {
    let script = [Op::Write(0, 2), Op::Truncate(1), Op::Sync, Op::Write(0, 1), Op::Write(2, 3)];
    let (mut driver, mut model) = (Driver::new(), Model::default());
    for (op, value) in script.into_iter().zip(1..) {
        driver.run(op, value).expect("nothing fails");
        model.apply(op, value);
        check_crashes(&driver, &model, usize::MAX, 0).unwrap_or_else(|why| panic!("{op:?}: {why}"));
    }
}
