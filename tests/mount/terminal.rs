//! Passphrases typed at a terminal, which `script` (util-linux) provides.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};

use crate::support::{PATIENCE, Store, fails, kmsfs, skipped, wait_for};

/// Runs `kmsfs` at a terminal of its own, answering its prompts in turn; answers the exit code
/// and all that was shown.
fn at_a_terminal(store: &Store, args: &[&str], answers: &[&str]) -> (i32, String) {
    let binary = kmsfs();
    let words = [binary.get_program().to_str().expect("a path in UTF-8")];
    let line = words.iter().chain(args).map(|w| format!("'{w}'")).collect::<Vec<_>>().join(" ");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.envs(binary.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env_remove("CREDENTIALS_DIRECTORY").env("KMSFS_KEYSTORE", store.keystore());
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.expect("script can be started");
    let mut input = child.stdin.take().expect("piped");
    let mut output = child.stdout.take().expect("piped");
    let (mut shown, mut buf) = (Vec::new(), [0; 1024]);
    let mut answers = answers.iter();
    let mut seen = 0;
    loop {
        let n = output.read(&mut buf).expect("readable");
        if n == 0 {
            break;
        }
        shown.extend_from_slice(&buf[..n]);
        let prompts = [&b"passphrase: "[..], b"again: "];
        if shown.len() > seen && prompts.iter().any(|prompt| shown.ends_with(prompt)) {
            seen = shown.len();
            wait_for("silence", PATIENCE, || !echoes(&child));
            let answer = answers.next().unwrap_or_else(|| panic!("one prompt more: {shown:?}"));
            input.write_all(format!("{answer}\n").as_bytes()).expect("it reads");
        }
    }
    let status = child.wait().expect("it ends");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(answers.next().is_none(), "it asked less often: {shown}");
    (status.code().expect("an exit code"), shown)
}

/// Whether the terminal that `script` gave its child shows what is typed: a prompt comes a
/// moment before it does not.
fn echoes(script: &Child) -> bool {
    let pid = script.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("there");
    let child = children.split_whitespace().next().expect("it prompted this moment");
    let terminal = File::options()
        .read(true)
        .custom_flags(libc::O_NOCTTY)
        .open(format!("/proc/{child}/fd/0"))
        .expect("its terminal");
    let modes = rustix::termios::tcgetattr(&terminal).expect("a terminal");
    modes.local_modes.contains(rustix::termios::LocalModes::ECHO)
}

#[test]
fn a_passphrase_is_asked_for_and_never_shown() {
    if skipped("fuse") {
        return;
    }
    let store = Store::unmade();
    let path = store.path();
    let path = path.to_str().expect("a path in UTF-8");
    let at = store.mountpoint();
    let at = at.to_str().expect("a path in UTF-8");

    let (code, shown) = at_a_terminal(&store, &["init", path], &["hunter2", "hunter3"]);
    assert!(code == 2 && shown.contains("differ"), "{code}: {shown}");
    let (code, shown) = at_a_terminal(&store, &["init", path], &[""]);
    assert!(code == 2 && shown.contains("empty"), "{code}: {shown}");
    assert!(!store.keystore().join("keystore.json").exists() && !store.path().exists());
    let (code, shown) = at_a_terminal(&store, &["init", path], &["hunter2", "hunter2"]);
    assert!(code == 0 && !shown.contains("hunter"), "{code}: {shown}");

    let (code, shown) = at_a_terminal(&store, &["mount", path, at], &["hunter3"]);
    assert!(code == 4 && shown.contains("passphrase"), "{code}: {shown}");
    assert!(!shown.contains("hunter"), "{shown}");
    let (code, shown) = at_a_terminal(&store, &["mount", path, at], &["hunter2"]);
    assert!(code == 0 && !shown.contains("hunter"), "{code}: {shown}");
    // The terminal is gone, the mount is not.
    let mount = store.mounted();
    fs::write(mount.at("f"), b"content").expect("written");
    assert_eq!(mount.state(), "open");
    mount.unmount();

    let (code, shown) = at_a_terminal(&store, &["cat", path, "f"], &["hunter2"]);
    assert!(code == 0 && shown.ends_with("content"), "{code}: {shown}");
    // With no terminal there is nobody to ask.
    let mut command = Command::new("setsid");
    command.arg("--wait").arg(kmsfs().get_program()).args(["cat", path, "f"]);
    command.env("KMSFS_KEYSTORE", store.keystore()).stdin(Stdio::null());
    let said = fails(&mut command, 4);
    assert!(said.contains("--passphrase-file"), "{said}");
}
