//! The programs that run, and what they tell.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use super::role::{self, Kind};
use super::timeline::Event;
use crate::console::failure::{Exit, Failure};
use crate::threads::{Role, spawn};

struct Program {
    kind: Kind,
    child: Child,
    listener: JoinHandle<()>,
}

/// Running programs; killed, with whatever they started, when dropped.
#[derive(Default)]
pub struct Programs(Vec<Program>);

impl Programs {
    /// Starts one more on `folder`; what it tells goes to `events`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        &mut self,
        kind: Kind,
        folder: &Path,
        events: &Sender<Event>,
    ) -> Result<(), Failure> {
        self.0.push(start(kind, folder, events.clone())?);
        Ok(())
    }

    /// That none has ended by itself.
    ///
    /// # Errors
    /// When one has; it has told why on stderr.
    pub fn check(&mut self) -> Result<(), Failure> {
        for program in &mut self.0 {
            if let Ok(Some(status)) = program.child.try_wait() {
                let message = format!("the program {:?} ended: {status}", program.kind);
                return Err(Failure::new(Exit::Failed, message));
            }
        }
        Ok(())
    }
}

fn start(kind: Kind, folder: &Path, events: Sender<Event>) -> Result<Program, Failure> {
    // A process group of its own: Ctrl-C is for the demonstration, which ends them in order.
    let mut child = role::command(kind, folder)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::io(Path::new("/proc/self/exe"), &e))?;
    let stdout = child.stdout.take().expect("it was asked to be piped");
    let listener = spawn(Role::Demo, move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        for event in lines.filter_map(|line| Event::parse(&line)) {
            if events.send(event).is_err() {
                return;
            }
        }
    });
    let listener = listener.map_err(|e| Failure::io(Path::new("threads"), &e))?;
    Ok(Program { kind, child, listener })
}

impl Drop for Programs {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.child.kill();
            let _ = program.child.wait();
        }
        // The pipe ends when the last process that holds it has ended.
        for program in self.0.drain(..) {
            let _ = program.listener.join();
        }
    }
}
