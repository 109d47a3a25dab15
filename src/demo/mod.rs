//! `kmsfs demo`: ordinary programs on a mount while another process disables the master key.

mod canvas;
mod elsewhere;
mod interrupts;
mod lines;
mod map;
mod marks;
mod master;
mod means;
mod observed;
mod options;
mod play;
mod postgres;
mod programs;
mod report;
mod role;
mod row;
mod scenes;
mod screen;
mod stage;
mod svg;
mod timeline;
mod verdict;

use std::path::Path;
use std::time::Duration;

pub use options::Demo;
pub use role::{Role, VERB, run as program};

use crate::console::failure::{Exit, Failure};
use interrupts::Interrupts;
use master::Master;
use means::Means;
use play::{Play, Times};
use report::Setting;
use scenes::{Act, Ending};
use stage::{Afterwards, MAIN, Stage, Under};
use verdict::{Check, Facts, Since};

/// Runs `demo`; it ends well only if every promise held.
///
/// # Errors
/// [`Failure`]; `Failed` when a promise did not hold.
pub fn run(args: &Demo) -> Result<(), Failure> {
    let master = args.master()?;
    check_report(&args.report)?;
    let since = match master {
        Master::Embedded => Since::Order,
        Master::Remote(_) => Since::FirstRefusal,
    };
    let afterwards = if args.keep { Afterwards::Keep } else { Afterwards::Remove };
    let interrupts = Interrupts::catch()?;
    let mut stage = Stage::new(master, args.permission(), afterwards, args.heartbeat)?;
    stage.make(MAIN, Under::Master)?;
    stage.mount(MAIN, Under::Master)?;
    interrupts.check()?;
    let times = Times { heartbeat: args.heartbeat, part: Duration::from_secs(args.seconds) };
    let mut play = Play::new(&mut stage, &interrupts, times, Means::Disable);
    if args.postgres {
        play = play.with_postgres()?;
    }
    let found = play.run()?;
    // What is not open again is no stage for more.
    let acts = match found.lines {
        Some(_) => scenes::play(&mut stage, &interrupts, args, since)?,
        None => Vec::new(),
    };
    drop(stage);
    let facts = Facts {
        timeline: &found.timeline,
        heartbeat: args.heartbeat,
        since,
        means: Means::Disable,
        lines: found.lines,
        database: found.database,
    };
    let checks = verdict::judge(&facts);
    let page = report::page(&facts, &checks, &acts, &setting(args));
    std::fs::write(&args.report, page).map_err(|e| Failure::io(&args.report, &e))?;
    conclude(&checks, &acts, &args.report)
}

/// A report that cannot be written is told before, not after.
fn check_report(path: &Path) -> Result<(), Failure> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK);
    writable.map_err(|e| Failure::io(folder, &e.into()).hint("name another: --report FILE.html"))
}

fn setting(args: &Demo) -> Setting {
    let system = rustix::system::uname();
    let word = |s: &std::ffi::CStr| s.to_string_lossy().into_owned();
    let machine = [word(system.sysname()), word(system.release()), word(system.machine())];
    Setting { kms: args.kms_name().to_owned(), machine: machine.join(" ") }
}

fn conclude(checks: &[Check], acts: &[Act], report: &Path) -> Result<(), Failure> {
    tell_checks(checks);
    for act in acts {
        screen::say("");
        screen::say(&format!("{}: {}", act.part.name(), act.part.title()));
        match &act.ending {
            Ending::Played(played) => tell_checks(&played.checks),
            Ending::LeftOut(why) => screen::say(&format!("left out: {why}")),
        }
    }
    screen::say("");
    screen::say(&format!("report: {}", report.display()));
    if checks.iter().all(|c| c.held) && acts.iter().all(Act::held) {
        screen::say("every promise held");
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "a promise did not hold")
        .hint(format!("see what happened when: {}", report.display())))
}

fn tell_checks(checks: &[Check]) {
    screen::say("");
    for check in checks {
        screen::say(&format!("{:>4}  {}", if check.held { "yes" } else { "NO" }, check.what));
    }
}
