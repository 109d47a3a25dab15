//! Metrics and the status page, over HTTP and over the control socket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::process::Command;

use serde_json::Value;

use crate::support::{Mount, PATIENCE, Store, errno, fails, kmsfs, run, skipped, wait_for};

/// Where the mount serves them.
fn address(mount: &Mount<'_>) -> String {
    let text = run(kmsfs().args(["status", "--output", "json"]).arg(mount.root()));
    let report: Value = serde_json::from_str(&text).expect("JSON");
    report["metrics"].as_str().expect("an address").to_owned()
}

/// The status line, headers and body of an answer.
fn ask(address: &str, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.to_owned(), body.to_owned())
}

fn get(address: &str, path: &str) -> String {
    let (head, body) = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    body
}

/// Every line's value by its name and labels.
fn figures(text: &str) -> BTreeMap<String, f64> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn figures_follow_what_the_mount_does() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&["--names", "plain"]);
    let mount = store.mount(&["--heartbeat", "1s", "--metrics", "127.0.0.1:0"]);
    let at = address(&mount);
    let now = || figures(&get(&at, "/metrics"));
    let before = now();
    assert_eq!(before["kmsfs_state{state=\"open\"}"], 1.0);
    let content = vec![7; 300_000];
    fs::write(mount.at("file"), &content).expect("written");
    let held = fs::File::open(mount.at("file")).expect("opened");
    // What the kernel keeps is not read from the daemon.
    rustix::fs::fadvise(&held, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    assert!(fs::read(mount.at("file")).expect("readable") == content);
    wait_for("a beat", PATIENCE, || now()["kmsfs_beats_total{outcome=\"good\"}"] > 0.0);
    let after = now();
    let grown = |name: &str| after[name] - before.get(name).copied().unwrap_or_default();
    assert_eq!(grown("kmsfs_written_bytes_total"), 300_000.0);
    assert!(grown("kmsfs_read_bytes_total") >= 300_000.0);
    for request in ["create", "write", "read", "release", "lookup"] {
        let counted = format!("kmsfs_request_duration_seconds_count{{request=\"{request}\"}}");
        assert!(grown(&counted) >= 1.0, "{request}");
    }
    assert_eq!(after["kmsfs_open_files"], 1.0);
    assert!(grown("kmsfs_key_cache_hits_total") >= 1.0);
    let generated = "kmsfs_kms_call_duration_seconds_count{operation=\"GenerateDataKey\"}";
    assert!(after[generated] >= 1.0);
    drop(held);

    // A record that fails authentication.
    let backing = store.tree().join("file");
    let file = fs::File::options().write(true).open(&backing).expect("there");
    file.write_all_at(&[0xaa; 64], 8192).expect("written");
    let held = fs::File::open(mount.at("file")).expect("opened");
    rustix::fs::fadvise(&held, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    assert!(fs::read(mount.at("file")).is_err());
    let damaged = now();
    assert!(damaged["kmsfs_authentication_failures_total{request=\"read\"}"] >= 1.0);
    assert!(damaged["kmsfs_request_failures_total{request=\"read\",errno=\"EBADMSG\"}"] >= 1.0);

    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    assert!(errno(fs::read(mount.at("other"))).is_some());
    let cut = now();
    assert_eq!(cut["kmsfs_state{state=\"revoked\"}"], 1.0);
    assert_eq!(cut["kmsfs_state{state=\"open\"}"], 0.0);
    assert!(cut["kmsfs_beats_total{outcome=\"refused\"}"] >= 1.0);
    let shown: Value = serde_json::from_str(&get(&at, "/status.json")).expect("JSON");
    assert_eq!(shown["state"], "revoked");
    let last = |list: &str, word: &str| {
        shown[list].as_array().and_then(|all| all.last()).expect("some")[word].clone()
    };
    assert_eq!(
        (last("phases", "state"), last("beats", "outcome")),
        ("revoked".into(), "refused".into())
    );
    // The same over the control socket, of a mount that serves no HTTP too.
    let text = run(kmsfs().args(["status", "--output", "prometheus"]).arg(mount.root()));
    let families = |all: BTreeMap<String, f64>| {
        let name = |line: &String| line.split('{').next().unwrap_or_default().to_owned();
        all.keys().map(name).collect::<BTreeSet<_>>()
    };
    assert_eq!(families(figures(&text)), families(now()));
    store.key(&["enable", "alias/kmsfs"]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(now()["kmsfs_state{state=\"open\"}"], 1.0);
    fails(kmsfs().args(["status", "--watch", "--output", "prometheus"]).arg(mount.root()), 2);
}

/// Nothing that is served names what only the mount's owner may know, and nothing is loaded from
/// elsewhere.
#[test]
fn the_page_and_the_figures_tell_no_names_and_load_nothing() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--metrics", "127.0.0.1:0"]);
    fs::write(mount.at("a-secret-name"), "content").expect("written");
    let at = address(&mount);
    let (head, page) = ask(&at, &format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(page.contains(&format!("kmsfs at {}", mount.root().display())));
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!elsewhere.contains("://") && !elsewhere.contains("src="), "it is one document");
    let report = mount.report();
    for path in ["/", "/metrics", "/status.json"] {
        let body = get(&at, path);
        for name in ["volume", "store", "master_key", "key_asked"] {
            let secret = report[name].as_str().expect("a text");
            assert!(!body.contains(secret), "{path} tells {name}: {secret}");
        }
        assert!(!body.contains("a-secret-name"), "{path}");
    }
}

#[test]
fn nobody_else_is_answered_and_nothing_can_be_changed() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--metrics", "127.0.0.1:0"]);
    let at = address(&mount);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), "421"),
        (format!("POST /metrics HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n"), "405"),
        (format!("GET /../etc/passwd HTTP/1.1\r\nHost: {at}\r\n\r\n"), "404"),
        (format!("GET / HTTP/1.1\r\nHost: {at}\r\nX: {}\r\n\r\n", "x".repeat(100_000)), "431"),
        ("\x16\x03\x01 no HTTP\r\n\r\n".to_owned(), "400"),
    ] {
        let Ok(mut stream) = TcpStream::connect(&at) else { panic!("it listens") };
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        // Who says too much may be hung up on before he has said it.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let is_hung_up_on = status == "431" && answer.is_empty();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) || is_hung_up_on, "{answer}");
    }
    // Another mount cannot have the same address, and says so before it is there.
    let second = Store::new(&[]);
    let said = fails(
        second
            .kmsfs()
            .args(["mount", "--metrics", &at])
            .arg(second.path())
            .arg(second.mountpoint()),
        1,
    );
    assert!(said.contains("cannot serve metrics") && said.contains("--metrics"), "{said}");
}

/// Whoever connects and says nothing has no descriptor of the daemon's beyond a few, and others
/// are answered when he is hung up on.
#[test]
fn silent_connections_keep_nobody_from_the_mount() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--metrics", "127.0.0.1:0"]);
    let at = address(&mount);
    let descriptors = || files_of(&mount);
    let before = descriptors();
    let silent: Vec<_> = (0..64).map(|_| TcpStream::connect(&at).expect("queued")).collect();
    fs::write(mount.at("file"), "content").expect("the mount goes on");
    assert!(descriptors() <= before + 24, "{} of {before}", descriptors());
    assert!(get(&at, "/metrics").contains("kmsfs_state"));
    drop(silent);
}

fn files_of(mount: &Mount<'_>) -> usize {
    fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("ours").count()
}

/// What Prometheus reads is what its own tool finds nothing to say of.
#[test]
fn promtool_finds_nothing_wrong() {
    if skipped("fuse") || skipped("prometheus") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("file"), "content").expect("written");
    let text = run(kmsfs().args(["status", "--output", "prometheus"]).arg(mount.root()));
    let mut check = Command::new("promtool");
    let mut check = check
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    check.stdin.take().expect("piped").write_all(text.as_bytes()).expect("read");
    let said = check.wait_with_output().expect("it ends");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/prometheus/alerts.yml");
    run(Command::new("promtool").args(["check", "rules", rules]));
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/prometheus/alerts-test.yml");
    run(Command::new("promtool").args(["test", "rules", tests]));
}
