//! `kmsfs demo` on a key of one's own, in a KMS that another process serves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::demo::{Demo, assert_kept};
use crate::support::server::{Rules, Server, credentials, key, new_key};
use crate::support::{run, skipped};

fn demo_on(server: &Server, demo: &Demo, seconds: &str) -> Command {
    let mut command = demo.command(&["--kms", "aws", "--key", "alias/shown"]);
    command.args(["--endpoint-url", &server.url(), "--heartbeat", "1s", "--seconds", seconds]);
    command.envs(credentials("test", "test"));
    command
}

fn state(server: &Server) -> String {
    let told = run(key(server).args(["describe", "alias/shown"]));
    let line = told.lines().find_map(|l| l.strip_prefix("state")).expect("a state");
    line.trim().to_owned()
}

#[test]
fn the_demo_keeps_its_promises_with_a_key_of_ones_own() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    new_key(&server, "shown");
    let demo = Demo::new();
    let output = demo_on(&server, &demo, "1").output().expect("started");
    assert_kept(&output, &demo.report());
    demo.assert_gone();
    assert_eq!(state(&server), "Enabled");
}

/// The key is the user's own: a demo that is interrupted while it is disabled enables it.
#[test]
fn an_interrupted_demo_enables_the_key_again() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    new_key(&server, "shown");
    let demo = Demo::new();
    let mut child = demo_on(&server, &demo, "5").stdout(Stdio::piped()).spawn().expect("started");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.contains("EKEYREVOKED")), "it locks");
    assert_eq!(state(&server), "Disabled");
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert!(lines.any(|line| line.contains(" enable ")), "the user is told");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
    assert_eq!(state(&server), "Enabled");
    demo.assert_gone();
}
