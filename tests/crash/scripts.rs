//! Scripts on a tree: all short ones, and long ones with power cuts and failing operations.

use proptest::prelude::*;

use crate::is_full;
use crate::simulated::Volume;
use crate::tree::{A, B, D, DA, DE, DEA, DLONG, E, EA, LONG, Op, PATHS, Run};

/// What the exhaustive scripts are made of.
const OPS: [Op; 32] = [
    Op::Create(B),
    Op::Write(A, 1),
    Op::Write(B, 0),
    Op::Empty(A),
    Op::Link(A, B),
    Op::Symlink(B, 1),
    Op::Mkdir(B),
    Op::Create(DEA),
    Op::Unlink(DEA),
    Op::Write(DEA, 1),
    Op::Rmdir(E),
    Op::Unlink(A),
    Op::UnlinkOpen(A),
    Op::Unlink(LONG),
    Op::Unlink(DLONG),
    Op::Rename(A, B),
    Op::Rename(B, A),
    Op::Rename(DA, A),
    Op::Rename(A, LONG),
    Op::Rename(LONG, DLONG),
    Op::Rename(D, E),
    Op::Rename(E, B),
    Op::Rename(DE, B),
    Op::Exchange(A, DLONG),
    Op::Exchange(D, E),
    Op::Fsync(A),
    Op::FsyncDir(A),
    Op::FsyncDir(D),
    Op::SyncAll,
    Op::Hold(DE),
    Op::EndGrace,
    Op::Remount,
];

fn explore(first: &[Op], depth: usize) {
    let mut scripts: Vec<Vec<Op>> = first.iter().map(|op| vec![*op]).collect();
    while let Some(script) = scripts.pop() {
        let (last, before) = script.split_last().expect("scripts have an operation");
        let mut run = Run::furnished();
        before
            .iter()
            .for_each(|op| run.step(*op).unwrap_or_else(|why| panic!("{script:?}: {why}")));
        run.step_and_cut(*last, 256, 0).unwrap_or_else(|why| panic!("{script:?}: {why}"));
        if script.len() < depth {
            scripts.extend(OPS.iter().map(|op| [&script[..], &[*op]].concat()));
        }
    }
}

#[test]
fn every_short_script_on_a_tree() {
    let depth = if is_full() { 3 } else { 2 };
    let (left, right) = OPS.split_at(OPS.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| explore(left, depth));
        scope.spawn(|| explore(right, depth));
    });
}

/// A directory's id is removed before it; where the removal then fails, a daemon that knows the
/// id goes on using it, and the next could not read the names.
#[test]
fn a_failed_rmdir_leaves_the_directory_its_id() {
    let mut kept = 0;
    for n in 1..16 {
        let mut run = Run::furnished();
        run.step(Op::Hold(E)).expect("it is there");
        run.volume().sim.fail_at(n, libc::EIO);
        run.step(Op::Rmdir(E)).expect("it fails, or not");
        run.step(Op::Create(EA)).expect("it works, or there is no directory");
        run.step(Op::Remount).expect("every name is shown");
        kept += usize::from(run.volume().at(PATHS[EA], Ok).is_ok());
    }
    assert!(kept > 2, "some of the calls of a rmdir failed");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Do(Op),
    /// An operation whose nth access to the disk fails.
    Fail(Op, u64),
    /// A power cut, and on with one of the states it may leave.
    Cut(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    let path = || 0..PATHS.len();
    let two = || (path(), path());
    prop_oneof![
        4 => path().prop_map(Op::Create),
        6 => (path(), 0..2usize).prop_map(|(p, n)| Op::Write(p, n)),
        1 => path().prop_map(Op::Empty),
        2 => two().prop_map(|(p, q)| Op::Link(p, q)),
        2 => (path(), 0..2usize).prop_map(|(p, n)| Op::Symlink(p, n)),
        4 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(Op::Rmdir),
        3 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::UnlinkOpen),
        6 => two().prop_map(|(p, q)| Op::Rename(p, q)),
        2 => two().prop_map(|(p, q)| Op::Exchange(p, q)),
        2 => path().prop_map(Op::Fsync),
        3 => path().prop_map(Op::FsyncDir),
        1 => Just(Op::SyncAll),
        2 => path().prop_map(Op::Hold),
        2 => Just(Op::Sweep),
        2 => Just(Op::EndGrace),
        1 => Just(Op::Remount),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let changes = ops().prop_filter("no clean end", |op| *op != Op::Remount);
    prop_oneof![
        12 => ops().prop_map(Step::Do),
        2 => (changes, 1..16u64).prop_map(|(op, n)| Step::Fail(op, n)),
        1 => any::<u64>().prop_map(Step::Cut),
    ]
}

fn run(script: &[Step], furnished: bool) -> Result<(), String> {
    let mut run = if furnished { Run::furnished() } else { Run::new(Volume::new())? };
    for (i, step) in script.iter().enumerate() {
        let done = match *step {
            Step::Do(op) => run.step_and_cut(op, 6, i as u64),
            Step::Fail(op, n) => {
                run.volume().sim.fail_at(n, libc::EIO);
                run.step_and_cut(op, 6, i as u64)
            }
            Step::Cut(seed) => {
                let all = run.volume().sim.crash();
                let state = all.state(u128::from(seed) % all.count());
                Volume::mount(state).map_err(|e| e.to_string()).and_then(|volume| {
                    let tree = volume.tree()?;
                    run.history.check(&tree)?;
                    // Where a file lost its header, the script goes on with another volume.
                    let whole = tree.files.values().all(Result::is_ok);
                    run = Run::new(if whole { volume } else { Volume::new() })?;
                    Ok(())
                })
            }
        };
        done.map_err(|why| format!("step {i}, {step:?}: {why}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if is_full() { 3000 } else { 75 },
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn long_scripts_on_a_tree(
        furnished in any::<bool>(),
        script in proptest::collection::vec(steps(), 1..24),
    ) {
        if let Err(why) = run(&script, furnished) {
            return Err(TestCaseError::fail(why));
        }
    }
}
