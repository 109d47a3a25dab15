//! Random operations against a reference model in memory: on the filesystem layer without FUSE,
//! and on a real mount. A failing script shrinks. `KMSFS_TEST_CASES` sets the number of scripts.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/simulated.rs"]
mod simulated;

mod failing;
mod layer;
mod mounted;
mod pieces;
mod reference;

use proptest::prelude::*;
use reference::{Model, Op, ops};

/// What a script is run on.
trait Target {
    /// Runs one operation; the errno where it fails, what was read where it reads.
    fn run(&mut self, op: &Op) -> Result<Vec<u8>, i32>;
    /// Forgets everything cached: what comes after is read from the disk.
    fn forget(&mut self);
}

fn cases(default: u32) -> u32 {
    std::env::var("KMSFS_TEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Runs a script on both, and compares every outcome, then the whole tree.
fn compare(target: &mut dyn Target, script: &[Op]) {
    let mut model = Model::default();
    for (i, op) in script.iter().enumerate() {
        let (wanted, got) = (model.run(op), target.run(op));
        assert_eq!(got, wanted, "operation {i}: {op:?}");
    }
    target.forget();
    for op in model.everything() {
        assert_eq!(target.run(&op), model.run(&op), "at the end: {op:?}");
    }
}

fn config(n: u32) -> ProptestConfig {
    ProptestConfig {
        cases: cases(n),
        max_shrink_iters: 500,
        failure_persistence: None,
        ..Default::default()
    }
}

#[test]
fn the_layer_does_what_the_model_does() {
    let mut runner = proptest::test_runner::TestRunner::new(config(60));
    let outcome = runner.run(&prop::collection::vec(ops(), 1..60), |script| {
        compare(&mut layer::Layer::new(), &script);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn a_mount_does_what_the_model_does() {
    if support::skipped("fuse") {
        return;
    }
    let store = support::Store::new(&[]);
    let mount = store.mount(&[]);
    let mut runner = proptest::test_runner::TestRunner::new(config(40));
    let outcome = runner.run(&prop::collection::vec(ops(), 1..60), |script| {
        compare(&mut mounted::Mounted::new(&mount), &script);
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
}
