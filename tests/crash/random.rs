//! Long scripts, with power cuts and failing operations in them.

use proptest::prelude::*;

use crate::driver::Driver;
use crate::model::{self, Model, Op, check_crash, check_crashes};
use crate::{EDGES, is_full};

/// How many states are looked at after each operation of a long script.
const STATES: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Step {
    Do(Op),
    /// An operation whose nth access to the disk fails.
    Fail(Op, u64, i32),
    /// An operation on a disk with space for so many pages.
    Full(Op, u64),
    /// A power cut, and on with one of the states it may leave.
    Cut(u64),
}

fn ops() -> impl Strategy<Value = Op> {
    let ranges = (0..EDGES.len() - 1, 1..EDGES.len())
        .prop_map(|(from, n)| (from, (from + n).min(EDGES.len() - 1)));
    prop_oneof![
        5 => ranges.clone().prop_map(|(from, to)| Op::Write(from, to)),
        2 => (0..EDGES.len()).prop_map(Op::Truncate),
        1 => ranges.prop_map(|(from, to)| Op::Punch(from, to)),
        2 => Just(Op::Sync),
    ]
}

fn changes() -> impl Strategy<Value = Op> {
    ops().prop_filter("a sync", |op| *op != Op::Sync)
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => ops().prop_map(Step::Do),
        2 => (changes(), 1..12u64, prop_oneof![Just(libc::EIO), Just(libc::ENOSPC)])
            .prop_map(|(op, n, errno)| Step::Fail(op, n, errno)),
        1 => (changes(), 0..3u64).prop_map(|(op, n)| Step::Full(op, n)),
        1 => any::<u64>().prop_map(Step::Cut),
    ]
}

fn run_failing(driver: &mut Driver, model: &mut Model, op: Op, value: u8) -> Result<(), String> {
    let done = driver.run(op, value);
    driver.sim.clear_faults();
    match done {
        Ok(()) => {
            model.apply(op, value);
            Ok(())
        }
        Err(_) => {
            let left = driver.read().map_err(|e| format!("unreadable after a failure: {e:?}"))?;
            model.failed(op, value, model::cells(&left)?)
        }
    }
}

fn cut(driver: &mut Driver, model: &mut Model, seed: u64) -> Result<(), String> {
    let all = driver.sim.crash();
    let state = all.state(u128::from(seed) % all.count());
    let left = check_crash(state, model)?;
    // A file whose header was lost is begun afresh, as a user would.
    (*driver, *model) = match left {
        Some((driver, cells)) => (driver, Model::after_crash(cells)),
        None => (Driver::new(), Model::default()),
    };
    Ok(())
}

fn run(script: &[Step]) -> Result<(), String> {
    let (mut driver, mut model) = (Driver::new(), Model::default());
    for (i, step) in script.iter().enumerate() {
        let value = u8::try_from(i + 1).expect("scripts are short");
        let done = match *step {
            Step::Do(op) => {
                driver.run(op, value).map_err(|e| format!("step {i}: {e:?}"))?;
                model.apply(op, value);
                Ok(())
            }
            Step::Fail(op, n, errno) => {
                driver.sim.fail_at(n, errno);
                run_failing(&mut driver, &mut model, op, value)
            }
            Step::Full(op, pages) => {
                driver.sim.limit_space(Some(pages));
                run_failing(&mut driver, &mut model, op, value)
            }
            Step::Cut(seed) => cut(&mut driver, &mut model, seed),
        };
        done.map_err(|why| format!("step {i}, {step:?}: {why}"))?;
        let seen = driver.read().map_err(|e| format!("step {i}, {step:?}: {e:?}"))?;
        if model::cells(&seen)? != model.present() {
            return Err(format!("step {i}, {step:?}: {:?}", model::cells(&seen)));
        }
        check_crashes(&driver, &model, STATES, i as u64)
            .map_err(|why| format!("step {i}, {step:?}: {why}"))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if is_full() { 50_000 } else { 3000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn long_scripts_with_cuts_and_failures(script in proptest::collection::vec(steps(), 1..24)) {
        if let Err(why) = run(&script) {
            return Err(TestCaseError::fail(why));
        }
    }
}
