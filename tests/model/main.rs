//! Random operations on a tree against a reference model in memory: on the filesystem layer
//! without FUSE, and on a real mount. A failing script shrinks. `KMSFS_TEST_CASES` sets the number
//! of scripts.

#[path = "../support/mod.rs"]
mod support;

#[path = "../support/simulated.rs"]
mod simulated;

mod failing;
mod layer;
mod mounted;
mod pieces;
mod reference;
mod script;
mod tree;

use std::collections::BTreeMap;

use kmsfs::store::Names;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reference::Model;
use script::{Op, Place, Replace, Values, scripts};
use tree::{Answer, Tree};

/// What a script is run on.
trait Target {
    /// Runs one operation; the errno where it fails.
    fn apply(&mut self, op: &Op) -> Result<Answer, i32>;
    /// Everything in the tree.
    fn tree(&self) -> Result<Tree, i32>;
    /// Closes all descriptors and forgets what is cached: what comes after is read from the disk.
    fn restart(&mut self);
}

fn cases(default: u32) -> u32 {
    std::env::var("KMSFS_TEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn check_tree(target: &dyn Target, model: &Model, when: &str) -> Result<(), TestCaseError> {
    let fail = |why: String| TestCaseError::fail(format!("the tree {when}:\n{why}"));
    let tree = target.tree().map_err(|e| fail(format!("cannot be walked: errno {e}")))?;
    tree.against(&model.tree()).map_err(fail)
}

/// Runs a script on both, and compares every outcome, the whole tree after every failure, and at
/// the end, also after all that was cached is gone.
fn compare(target: &mut dyn Target, script: &[Op]) -> Result<(), TestCaseError> {
    let mut model = Model::default();
    for (i, op) in script.iter().enumerate() {
        let (wanted, got) = (model.run(op), target.apply(op));
        if got != wanted {
            let why =
                format!("operation {i}, {op:?}:\n  is        {got:?}\n  should be {wanted:?}");
            return Err(TestCaseError::fail(why));
        }
        if got.is_err() {
            check_tree(target, &model, &format!("after operation {i}, {op:?}, failed"))?;
        }
    }
    check_tree(target, &model, "at the end")?;
    target.restart();
    model.close();
    check_tree(target, &model, "when everything was closed and forgotten")
}

fn check<T: Target>(default: u32, values: Values, make: impl Fn() -> T) {
    let config = Config {
        cases: cases(default),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome =
        TestRunner::new(config).run(&scripts(values), |script| compare(&mut make(), &script));
    outcome.unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn the_layer_does_what_the_model_does() {
    check(200, Values::Large, || layer::Layer::new(Names::Encrypted));
}

#[test]
fn the_layer_with_plain_names_does_what_the_model_does() {
    check(60, Values::Large, || layer::Layer::new(Names::Plain));
}

#[test]
fn a_mount_does_what_the_model_does() {
    if support::skipped("fuse") {
        return;
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(reference::UMASK));
    assert_eq!(before.bits(), reference::UMASK, "the other tests of this process make files too");
    let store = support::Store::new(&[]);
    let mount = store.mount(&[]);
    check(40, Values::Small, || mounted::Mounted::new(&mount));
}

/// What an operation did, or why it did not, by the names in errno(3).
fn outcome(op: &Op, result: &Result<Answer, i32>) -> String {
    let name = match op {
        Op::Rename(_, _, Replace::Over) => "Rename",
        Op::Rename(_, _, Replace::Never) => "RenameNoReplace",
        Op::Rename(_, _, Replace::Exchange) => "RenameExchange",
        Op::Chmod(Place::Open(_), _) => "ChmodOpen",
        Op::SetXattr(Place::Open(_), ..) => "SetXattrOpen",
        _ => "",
    };
    let name = if name.is_empty() {
        let shown = format!("{op:?}");
        shown.split('(').next().unwrap_or_default().to_owned()
    } else {
        name.to_owned()
    };
    match result {
        Ok(_) => name,
        Err(errno) => format!("{name} {}", kmsfs::fs::Errno(*errno).name()),
    }
}

/// The scripts reach what they are for: each of these outcomes is seen often enough.
#[test]
fn scripts_reach_every_outcome() {
    let number = |e: i32| kmsfs::fs::Errno(e).name();
    let (not_empty, not_dir) = (number(libc::ENOTEMPTY), number(libc::ENOTDIR));
    let (is_dir, no_data) = (number(libc::EISDIR), number(libc::ENODATA));
    let wanted = [
        "Mkdir",
        "Mkdir EEXIST",
        "Mkdir ENOENT",
        "Create",
        "Create EEXIST",
        "Symlink",
        "Readlink",
        "Readlink EINVAL",
        "Link",
        "Link EPERM",
        "Link EEXIST",
        "Unlink",
        "Unlink ENOENT",
        "Rmdir",
        "Rename",
        "Rename EINVAL",
        "Rename ENOENT",
        "RenameNoReplace",
        "RenameNoReplace EEXIST",
        "RenameExchange",
        "RenameExchange EINVAL",
        "Chmod",
        "ChmodOpen",
        "SetXattr",
        "SetXattr EPERM",
        "SetXattrOpen",
        "GetXattr",
        "RemoveXattr",
        "Write",
        "Read",
        "Truncate",
        "Punch",
        "Sync",
        "SyncDir",
        "Open",
        "Close",
    ];
    let mut wanted: Vec<String> = wanted.map(str::to_owned).to_vec();
    for (op, errno) in [
        ("Rmdir", &not_empty),
        ("Rmdir", &not_dir),
        ("Mkdir", &not_dir),
        ("Unlink", &is_dir),
        ("Rename", &not_empty),
        ("Rename", &not_dir),
        ("Rename", &is_dir),
        ("SetXattr", &no_data),
        ("RemoveXattr", &no_data),
    ] {
        wanted.push(format!("{op} {errno}"));
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..600 {
        let script = scripts(Values::Large).new_tree(&mut runner).expect("a script").current();
        let mut model = Model::default();
        for op in script {
            let result = model.run(&op);
            *seen.entry(outcome(&op, &result)).or_default() += 1;
        }
    }
    let rare = |what: &&String| seen.get(*what).is_none_or(|n| *n < 5);
    let rare: Vec<&String> = wanted.iter().filter(rare).collect();
    assert!(rare.is_empty(), "{rare:?} are hardly seen: {seen:#?}");
}
