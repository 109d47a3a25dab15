//! Exit codes and messages.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Store, fails, kmsfs, run, skipped, wait_for};

#[test]
fn what_is_no_store_or_no_mountpoint_is_told() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let empty = tempfile::tempdir().expect("a folder");
    let mount = |from: &std::path::Path, at: &std::path::Path, code| {
        fails(kmsfs().arg("mount").arg(from).arg(at), code)
    };
    assert!(mount(empty.path(), &store.mountpoint(), 3).contains("kmsfs init"));
    mount(&empty.path().join("absent"), &store.mountpoint(), 3);
    mount(&store.path(), &empty.path().join("absent"), 7);
    let file = empty.path().join("file");
    fs::write(&file, b"x").expect("written");
    mount(&store.path(), &file, 7);
    assert!(mount(&store.path(), empty.path(), 7).contains("not empty"));
    assert!(mount(&store.path(), &store.path(), 7).contains("inside the store"));
    fails(kmsfs().arg("unmount").arg(empty.path()), 8);
    fails(kmsfs().arg("init").arg(empty.path()), 1);
    fails(kmsfs().arg("mount"), 2);
}

#[test]
fn two_daemons_cannot_have_one_store() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let _mount = store.mount(&[]);
    let other = tempfile::tempdir().expect("a folder");
    let said = fails(kmsfs().arg("mount").arg(store.path()).arg(other.path()), 9);
    assert!(said.contains("another kmsfs"), "{said}");
}

#[test]
fn a_disabled_key_and_a_wrong_passphrase_do_not_mount() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    store.key(&["disable", "alias/kmsfs"]);
    fails(kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 5);
    store.key(&["enable", "alias/kmsfs"]);

    let folder = tempfile::tempdir().expect("a folder");
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    fs::write(&right, "correct horse\n").expect("written");
    fs::write(&wrong, "incorrect horse\n").expect("written");
    run(kmsfs()
        .arg("keystore")
        .arg("--keystore")
        .arg(store.keystore())
        .arg("passphrase")
        .arg("--new-passphrase-file")
        .arg(&right));
    let mount = |pass: &std::path::Path| {
        let mut command = kmsfs();
        command.arg("mount").arg(store.path()).arg(store.mountpoint());
        command.arg("--passphrase-file").arg(pass);
        command
    };
    fails(&mut mount(&wrong), 4);
    run(&mut mount(&right));
    run(kmsfs().arg("unmount").arg(store.mountpoint()));
}

/// A daemon that was killed leaves a mount that answers nothing: the next mount detaches it.
#[test]
fn a_dead_mount_is_detached_by_the_next() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("f"), b"content").expect("written");
    let status = run(kmsfs().arg("status").arg(mount.root()).args(["--output", "json"]));
    let report: serde_json::Value = serde_json::from_str(&status).expect("json");
    let pid = i32::try_from(report["pid"].as_i64().expect("a pid")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    if let Ok(handle) = handle {
        let mut ends = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ends, None).expect("it ends");
    }
    let again = store.mount(&[]);
    assert_eq!(fs::read(again.at("f")).expect("readable"), b"content");
    drop(again);
    std::mem::forget(mount);
}

/// What a killed replacement left in a sidecar folder is removed by the next mount, which does
/// not wait for it: not even where another process holds the folder's lock.
#[test]
fn a_mount_sweeps_temporary_files_beside_its_work() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let folder = store.path().join("links/00");
    let left = store.path().join("links/ff/0123.tmp-456789abcdef");
    fs::write(&left, b"half").expect("written");
    let held = fs::File::open(&folder).expect("opened");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let mount = store.mount(&[]);
    fs::write(mount.at("f"), b"content").expect("written");
    assert!(left.exists(), "it waits for the folder of another");
    drop(held);
    wait_for("the sweep", std::time::Duration::from_secs(20), || !left.exists());
    mount.unmount();
    let mount = store.mount(&["--read-only"]);
    assert_eq!(fs::read(mount.at("f")).expect("readable"), b"content");
}

#[test]
fn cat_and_export_need_no_mount() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::create_dir(mount.at("d")).expect("made");
    fs::write(mount.at("d/f"), vec![b'c'; 10_000]).expect("written");
    fs::hard_link(mount.at("d/f"), mount.at("h")).expect("linked");
    std::os::unix::fs::symlink("d/f", mount.at("l")).expect("made");
    fails(kmsfs().arg("cat").arg(store.path()).arg("d/f"), 9);
    mount.unmount();
    let text = run(kmsfs().arg("cat").arg(store.path()).arg("/d/f"));
    assert!(text.len() == 10_000 && text.bytes().all(|b| b == b'c'));
    fails(kmsfs().arg("cat").arg(store.path()).arg("absent"), 1);
    let folder = tempfile::tempdir().expect("a folder");
    let dest = folder.path().join("out");
    run(kmsfs().arg("export").arg(store.path()).arg(&dest));
    assert_eq!(fs::read(dest.join("l")).expect("a link"), vec![b'c'; 10_000]);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(dest.join("h")).expect("there").nlink(), 2);
    fails(kmsfs().arg("export").arg(store.path()).arg(&dest), 1);
}

/// Whoever can write the store chooses modes and device numbers: an export as root must not make
/// a set-user-ID program or a device of them unasked, nor show a file before it has its mode.
#[test]
fn an_export_leaves_privileges_behind_unless_it_is_told_to_keep_them() {
    if skipped("fuse") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    fs::write(mount.at("program"), b"x").expect("written");
    fs::set_permissions(mount.at("program"), fs::Permissions::from_mode(0o6755)).expect("set");
    let (kind, mode) =
        (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o666));
    let number = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, mount.at("null"), kind, mode, number).expect("made");
    mount.unmount();
    let folder = tempfile::tempdir().expect("a folder");
    let export = |name: &str, args: &[&str]| {
        let dest = folder.path().join(name);
        let output = kmsfs().arg("export").arg(store.path()).arg(&dest).args(args).output();
        let output = output.expect("started");
        assert!(output.status.success(), "{output:?}");
        let mode = fs::metadata(dest.join("program")).expect("there").permissions().mode();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (mode & 0o7777, dest.join("null").exists(), said)
    };
    let (mode, has_device, said) = export("plain", &[]);
    assert_eq!((mode, has_device), (0o755, false));
    assert!(said.contains("set-id bits of 1 files, and 1 device files"), "{said}");
    let (mode, has_device, _) = export("kept", &["--keep-privileged"]);
    assert_eq!((mode, has_device), (0o6755, true));
}

#[test]
fn a_shredded_file_is_lost_for_good() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    for name in ["kept", "gone"] {
        fs::write(mount.at(name), b"content").expect("written");
    }
    fails(kmsfs().arg("shred").arg(mount.at("gone")), 2);
    run(kmsfs().arg("shred").arg("--yes").arg(mount.at("gone")));
    let got = fs::read(mount.at("gone")).err().and_then(|e| e.raw_os_error());
    assert_eq!(got, Some(libc::EKEYREJECTED));
    assert_eq!(fs::read(mount.at("kept")).expect("readable"), b"content");
}

/// Whoever can write the store puts a volume of their own in its place, under the same id.
#[test]
fn a_changed_volume_key_is_refused() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    store.mount(&[]).unmount();
    let info = run(kmsfs().arg("info").arg(store.path()).args(["--output", "json"]));
    let info: serde_json::Value = serde_json::from_str(&info).expect("json");
    let volume = info["volume"].as_str().expect("an id");
    let known =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("state/kmsfs/volumes").join(volume);
    let fingerprint = fs::read_to_string(&known).expect("remembered");
    // The same as a store with another key: what is remembered is not what is there.
    fs::write(&known, fingerprint.replace(['0', '1', '2', '3'], "f")).expect("written");
    let said = fails(kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 3);
    assert!(said.contains("replaced the store") && said.contains("rm "), "{said}");
    fs::remove_file(&known).expect("removed");
    store.mount(&[]).unmount();
}

#[test]
fn a_pinned_master_key_is_the_only_one() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let other = store.key(&["create"]);
    let mount = |key: &str| {
        let mut command = kmsfs();
        command.arg("mount").arg(store.path()).arg(store.mountpoint());
        command.args(["--master-key", key]);
        command
    };
    let said = fails(&mut mount(other.trim()), 5);
    assert!(said.contains("the volume is under"), "{said}");
    run(&mut mount("alias/kmsfs"));
    run(kmsfs().arg("unmount").arg(store.mountpoint()));
}

/// Typed wins over a variable, that over the file, and that over the default; a mistake in the
/// file is told with its name, and nothing is mounted.
#[test]
fn options_come_from_a_file_too() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let file = store.outside("kmsfs.toml");
    let config = file.to_str().expect("text");
    let heartbeat = |typed: &[&str], variable: Option<&str>| {
        let mut mount = store.kmsfs();
        mount.envs(variable.map(|v| ("KMSFS_HEARTBEAT", v))).args(["mount", "--config", config]);
        run(mount.arg(store.path()).arg(store.mountpoint()).args(typed));
        let status = ["status", "--output", "json"];
        let status = run(store.kmsfs().args(status).arg(store.mountpoint()));
        run(store.kmsfs().arg("unmount").arg(store.mountpoint()));
        let at = status.find("heartbeat_ms").expect("a field");
        status[at..].split([':', ',', '}']).nth(1).expect("a value").trim().to_owned()
    };
    let keystore = store.keystore();
    let text = format!("keystore = {keystore:?}\n[mount]\nheartbeat = \"3s\"\n");
    fs::write(&file, &text).expect("written");
    assert_eq!(heartbeat(&[], None), "3000");
    assert_eq!(heartbeat(&[], Some("4s")), "4000");
    assert_eq!(heartbeat(&["--heartbeat", "5s"], Some("4s")), "5000");
    fs::write(&file, text + "hartbeat = \"3s\"\n").expect("written");
    let mut mount = store.kmsfs();
    mount.args(["mount", "--config", config]).arg(store.path()).arg(store.mountpoint());
    let said = fails(&mut mount, 4);
    assert!(said.contains("hartbeat is no option of kmsfs mount"), "{said}");
}

#[test]
fn bench_measures_and_cleans_up() {
    if skipped("fuse") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let small = ["--size", "16", "--files", "100", "--output", "json"];
    let said = run(kmsfs().arg("bench").arg(folder.path()).args(small));
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let rows = said["rows"].as_array().expect("rows");
    let positive = |row: &serde_json::Value, of: &str| row[of].as_f64().is_some_and(|v| v > 0.0);
    assert!(rows.len() == 10 && rows.iter().all(|r| positive(r, "store") && positive(r, "mount")));
    assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 0);
}

/// `kmsfs info STORE | head -1` panicked when `head` had gone.
#[test]
fn a_reader_that_has_gone_ends_a_verb_quietly() {
    let store = Store::new(&[]);
    let script = format!(
        "{} info {:?} | true; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_kmsfs"),
        store.path()
    );
    // Often enough that the reader is gone before the first line in some.
    for _ in 0..20 {
        let output = Command::new("bash").args(["-c", &script]).output().expect("bash");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{:?}", output.status);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn status_counts_the_calls_of_the_kms() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    let calls = |operation: &str, outcome: &str| {
        let report = mount.report();
        let all = report["kms_calls"].as_array().expect("a list").clone();
        let one = all.iter().find(|c| c["operation"] == operation);
        one.and_then(|c| c[outcome].as_u64()).unwrap_or(0)
    };
    assert!(calls("Decrypt", "ok") >= 2, "the volume key and the canary");
    let before = calls("GenerateDataKey", "ok");
    fs::write(mount.at("file"), b"content").expect("written");
    let soon = std::time::Duration::from_secs(10);
    crate::support::wait_for("a key, and a beat", soon, || calls("GenerateDataKey", "ok") > before);
    assert_eq!(calls("GenerateDataKey", "refused"), 0);
    store.key(&["disable", "alias/kmsfs"]);
    mount.wait_state("revoked", soon);
    assert!(calls("GenerateDataKey", "refused") + calls("Decrypt", "refused") > 0);
}

/// What somebody else called a key steered the terminal of who looked at it.
#[test]
fn what_others_wrote_steers_no_terminal() {
    let store = Store::new(&[]);
    let id = store.key(&["create", "--description", "\x1b[2J\u{9b}31m\nstate        Enabled"]);
    let told = store.key(&["describe", id.trim()]);
    let shown = "description  \\u001b[2J\\u009b31m\\u000astate        Enabled\n";
    assert!(told.contains(shown), "{told:?}");
    let said = fails(kmsfs().arg("info").arg(store.outside("\x1b]0;title\x07")), 3);
    assert!(said.contains("\\u001b]0;title\\u0007"), "{said:?}");
    for copy in ["volume.json", "volume.json.bak"] {
        let file = store.path().join(copy);
        let text = fs::read_to_string(&file).expect("text");
        fs::write(&file, text.replace("alias/kmsfs", "alias/\\\\u001b[2J")).expect("written");
    }
    let said = fails(kmsfs().arg("info").arg(store.path()), 3);
    assert!(said.contains("asked") && !said.contains('\x1b'), "{said:?}");
}

/// Each shell reads its own completion, and the pages are those that verbs refer to.
#[test]
fn pages_and_completion_are_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = run(kmsfs().args(["man", "--to"]).arg(folder.path()));
    assert!(said.lines().count() > 20 && folder.path().join("kmsfs-mount.1").exists(), "{said}");
    assert_eq!(run(kmsfs().args(["man", "mount"])), {
        fs::read_to_string(folder.path().join("kmsfs-mount.1")).expect("text")
    });
    assert!(run(kmsfs().args(["man", "mount.kmsfs"])).contains(".Nm mount.kmsfs"));
    fails(kmsfs().args(["man", "munt"]), 2);
    let mut loaded = 0;
    for shell in ["bash", "zsh", "fish"] {
        let text = run(kmsfs().args(["completion", shell]));
        assert!(text.contains("KMSFS_COMPLETE"), "{shell}");
        let file = folder.path().join(shell);
        fs::write(&file, text).expect("written");
        if let Ok(read) = Command::new(shell).arg("-n").arg(&file).output() {
            assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr));
            loaded += 1;
        }
    }
    assert!(loaded > 0, "bash is everywhere");
}

/// What bash completes a line to, as it asks for it.
fn completed(store: &Store, config: &Path, line: &[&str]) -> Vec<String> {
    let program = kmsfs();
    let folder = Path::new(program.get_program()).parent().expect("a folder");
    let script = r#"PATH="$1:$PATH"; shift
        . <(kmsfs completion bash) && COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        _clap_complete_kmsfs kmsfs "${COMP_WORDS[COMP_CWORD]}" && printf '%s\n' "${COMPREPLY[@]}""#;
    let mut bash = Command::new("bash");
    bash.args(["-c", script, "bash"]).arg(folder).arg("kmsfs").args(line);
    bash.env("KMSFS_CONFIG", config).env("KMSFS_KEYSTORE", store.keystore());
    run(&mut bash).lines().map(str::to_owned).collect()
}

/// Only verbs and options were, and paths.
#[test]
fn mountpoints_volumes_and_aliases_are_completed() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let config = store.outside("kmsfs.toml");
    let text = format!(
        "[volume.database]\nstore = '{}'\nmountpoint = '{}'\n",
        store.path().display(),
        mount.root().display()
    );
    fs::write(&config, text).expect("written");
    let completed = |line: &[&str]| completed(&store, &config, line);
    assert_eq!(completed(&["mount", "--heartb"]), ["--heartbeat"]);
    assert!(completed(&["unmount", ""]).contains(&mount.root().display().to_string()));
    assert!(completed(&["unmount", "data"]).contains(&"database".to_owned()));
    assert!(completed(&["fsck", "data"]).contains(&"database".to_owned()));
    assert_eq!(completed(&["key", "disable", "alias/"]), ["alias/kmsfs"]);
    assert_eq!(completed(&["rewrap", "s", "--to", "alias/"]), ["alias/kmsfs"]);
}

/// `kmsfs lock NAME` has to work at once, whatever else the file says.
#[test]
fn a_volume_is_mounted_and_locked_by_its_name() {
    if skipped("fuse") {
        return;
    }
    let store = Store::new(&[]);
    let config = store.outside("kmsfs.toml");
    let good = format!(
        "[volume.database]\nstore = '{}'\nmountpoint = '{}'\nheartbeat = '2s'\n",
        store.path().display(),
        store.mountpoint().display()
    );
    fs::write(&config, &good).expect("written");
    let named = |verb: &[&str]| {
        let mut command = store.kmsfs();
        command.args(verb).env("KMSFS_CONFIG", &config);
        command
    };
    let checked = run(&mut named(&["config", "check"]));
    assert!(checked.contains("volume database: "), "{checked}");
    run(&mut named(&["mount", "database"]));
    let mount = store.mounted();
    assert_eq!(mount.report()["heartbeat_ms"], 2000);
    fs::write(&config, format!("{good}hartbeat = '3s'\n")).expect("written");
    let said = fails(&mut named(&["config", "check"]), 4);
    assert!(said.contains("did you mean heartbeat?"), "{said}");
    fails(&mut named(&["unlock", "database"]), 4);
    run(&mut named(&["lock", "database"]));
    assert_eq!(mount.state(), "locked");
    fs::write(&config, format!("{good}outage_grace = 'long'\n")).expect("written");
    let said = fails(&mut named(&["config", "check"]), 4);
    assert!(said.contains("--outage-grace"), "{said}");
    fs::write(&config, &good).expect("written");
    run(&mut named(&["unlock", "database"]));
    run(&mut named(&["unmount", "database"]));
    std::mem::forget(mount);
}

/// The URL of the KMS was taken from wherever it stood, with or without TLS.
#[test]
fn no_kms_elsewhere_is_asked_without_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let section = "[default]\nendpoint_url = http://kms.example\n";
    fs::write(&config, section).expect("written");
    let list = || {
        let mut list = kmsfs();
        list.args(["key", "--kms", "aws", "--region", "eu-west-1", "list"]);
        for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS", "AWS_PROFILE"] {
            list.env_remove(name);
        }
        list.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
        list.env("AWS_CONFIG_FILE", folder.path().join("none"));
        list
    };
    let url = "http://kms.example";
    let refused = |list: &mut Command| {
        let said = fails(list, 2);
        assert!(said.contains(url) && said.contains("--plain-http"), "{said}");
    };
    refused(list().args(["--endpoint-url", url]));
    refused(list().env("AWS_ENDPOINT_URL", url));
    refused(list().env("AWS_ENDPOINT_URL_KMS", url));
    refused(list().env("AWS_CONFIG_FILE", &config));
    // Nobody listens there: it is asked.
    fails(list().args(["--endpoint-url", "http://127.0.0.1:1"]), 6);
}
