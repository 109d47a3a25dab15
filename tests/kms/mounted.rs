//! Mounts whose master key is in a KMS that another process serves and a third administers.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;

use crate::support::server::{Rules, Server, credentials, key, new_key};
use crate::support::{
    EKEYEXPIRED, EKEYREJECTED, EKEYREVOKED, Mount, PATIENCE, Store, errno, fails, kmsfs, run,
    skipped, wait_for,
};

fn skip() -> bool {
    skipped("fuse") || skipped("ministack")
}

/// A file and a descriptor of it that has read.
fn written(mount: &Mount<'_>, name: &str, text: &[u8]) -> File {
    fs::write(mount.at(name), text).expect("written");
    let mut file = File::open(mount.at(name)).expect("opened");
    let mut back = Vec::new();
    file.read_to_end(&mut back).expect("readable");
    assert_eq!(back, text);
    file
}

fn reread(file: &mut File) -> std::io::Result<Vec<u8>> {
    file.rewind()?;
    let mut back = Vec::new();
    file.read_to_end(&mut back).map(|_| back)
}

/// The promise of the project, with a KMS that is not ours: another process disables the key,
/// and what was readable is not; it enables it, and the same descriptor reads on.
#[test]
fn a_key_disabled_or_pending_deletion_locks_the_mount_until_it_is_enabled() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let store = Store::on(&server);
    let mount = store.mount(&["--heartbeat", "1s"]);
    let mut file = written(&mount, "file", b"what RDS does");
    let locked = |file: &mut File| {
        mount.wait_state("revoked", PATIENCE);
        assert_eq!(errno(reread(file)), Some(EKEYREVOKED));
        assert_eq!(errno(File::open(mount.at("file"))), Some(EKEYREVOKED));
        assert_eq!(errno(fs::read_dir(mount.root())), Some(EKEYREVOKED));
    };
    let opens = |file: &mut File| {
        run(key(&server).args(["enable", "alias/kmsfs"]));
        mount.wait_state("open", PATIENCE);
        assert_eq!(reread(file).expect("the same descriptor"), b"what RDS does");
    };
    run(key(&server).args(["disable", "alias/kmsfs"]));
    locked(&mut file);
    opens(&mut file);

    run(key(&server).args(["schedule-deletion", "alias/kmsfs", "--yes"]));
    locked(&mut file);
    run(key(&server).args(["cancel-deletion", "alias/kmsfs"]));
    let described = run(key(&server).args(["describe", "alias/kmsfs"]));
    assert!(described.contains("Disabled"), "{described}");
    assert_eq!(mount.state(), "revoked", "cancelling alone enables nothing");
    opens(&mut file);
    fs::write(mount.at("new"), b"and it goes on").expect("written");
}

/// A mount's identity may do just what its policy says; taking that away is a refusal.
#[test]
fn a_policy_that_denies_locks_the_mount() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::Enforced);
    let id = new_key(&server, "kmsfs");
    let user = server.python(&format!(
        "iam.create_user(UserName='daemon')
allow = {{'Version': '2012-10-17', 'Statement': [{{'Effect': 'Allow', 'Resource': '*',
    'Action': ['kms:GenerateDataKey', 'kms:Decrypt']}}]}}
iam.put_user_policy(UserName='daemon', PolicyName='use', PolicyDocument=json.dumps(allow))
arn = kms.describe_key(KeyId='{id}')['KeyMetadata']['Arn']
made = iam.create_access_key(UserName='daemon')['AccessKey']
print(made['AccessKeyId'], made['SecretAccessKey'], arn)"
    ));
    let [name, secret, arn] = user.split(' ').collect::<Vec<_>>()[..] else { panic!("{user}") };
    let store = Store::aws(&server.url(), &credentials(name, secret), &["--master-key", arn]);
    // A pinned ARN needs no DescribeKey, which this identity may not call.
    let mount = store.mount(&["--heartbeat", "1s", "--master-key", arn]);
    let mut file = written(&mount, "file", b"least privilege");
    fails(store.kmsfs().args(["key", "--kms", "aws", "disable", arn]), 5);
    assert_eq!(mount.state(), "open");

    server.python("iam.delete_user_policy(UserName='daemon', PolicyName='use')");
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(reread(&mut file)), Some(EKEYREVOKED));
    server.python(
        "allow = {'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Resource': '*',
    'Action': ['kms:GenerateDataKey', 'kms:Decrypt']}]}
iam.put_user_policy(UserName='daemon', PolicyName='use', PolicyDocument=json.dumps(allow))",
    );
    mount.wait_state("open", PATIENCE);
    assert_eq!(reread(&mut file).expect("the same descriptor"), b"least privilege");
}

/// A heartbeat of a read-only mount asked for a data key: an identity that may only Decrypt could not
/// mount, and such a mount locked at once.
#[test]
fn an_identity_that_may_only_decrypt_mounts_read_only() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::Enforced);
    new_key(&server, "kmsfs");
    let store = Store::on(&server);
    written(&store.mount(&[]), "file", b"to be read");
    let user = server.python(
        "iam.create_user(UserName='reader')
allow = {'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Resource': '*',
    'Action': ['kms:Decrypt']}]}
iam.put_user_policy(UserName='reader', PolicyName='use', PolicyDocument=json.dumps(allow))
made = iam.create_access_key(UserName='reader')['AccessKey']
print(made['AccessKeyId'], made['SecretAccessKey'])",
    );
    let (name, secret) = user.split_once(' ').expect("two words");
    let mounting = |options: &[&str]| {
        let mut command = store.kmsfs();
        command.arg("mount").arg(store.path()).arg(store.mountpoint()).args(options);
        command.args(["--heartbeat", "1s"]).envs(credentials(name, secret));
        command
    };
    fails(&mut mounting(&[]), 5);
    run(&mut mounting(&["--read-only"]));
    let mount = store.mounted();
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"to be read");
    wait_for("heartbeats", PATIENCE, || mount.report()["beats"].as_u64() >= Some(3));
    assert_eq!(
        (mount.state(), mount.report()["beats_failed"].as_u64()),
        ("open".to_owned(), Some(0))
    );
    run(key(&server).args(["disable", "alias/kmsfs"]));
    mount.wait_state("revoked", PATIENCE);
    run(key(&server).args(["enable", "alias/kmsfs"]));
    mount.wait_state("open", PATIENCE);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"to be read");
}

/// Credentials that are taken away in mid-run are an outage, not a refusal; new ones are found
/// in the profile file without a remount.
#[test]
fn credentials_that_end_are_an_outage_until_new_ones_lie_in_the_profile() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::Enforced);
    let id = new_key(&server, "kmsfs");
    let new_credentials = |file: &Path| {
        let made = server.python(
            "made = iam.create_access_key(UserName='daemon')['AccessKey']
print(made['AccessKeyId'], made['SecretAccessKey'])",
        );
        let (name, secret) = made.split_once(' ').expect("two words");
        let text =
            format!("[default]\naws_access_key_id = {name}\naws_secret_access_key = {secret}\n");
        fs::write(file, text).expect("written");
        name.to_owned()
    };
    server.python(
        "allow = {'Version': '2012-10-17', 'Statement': [{'Effect': 'Allow', 'Resource': '*',
    'Action': ['kms:GenerateDataKey', 'kms:Decrypt']}]}
iam.create_user(UserName='daemon')
iam.put_user_policy(UserName='daemon', PolicyName='use', PolicyDocument=json.dumps(allow))",
    );
    let profile = tempfile::NamedTempFile::new().expect("a file");
    let first = new_credentials(profile.path());
    let mut env = credentials("", "");
    env.retain(|(k, _)| !k.ends_with("_KEY") && !k.ends_with("KEY_ID"));
    env.push((
        "AWS_SHARED_CREDENTIALS_FILE".to_owned(),
        profile.path().to_str().expect("UTF-8").to_owned(),
    ));
    let store = Store::aws(&server.url(), &env, &["--master-key", &id]);
    let mount = store.mount(&["--heartbeat", "1s", "--outage-grace", "2s"]);
    let mut file = written(&mount, "file", b"still there");
    server.python(&format!("iam.delete_access_key(UserName='daemon', AccessKeyId='{first}')"));
    mount.wait_state("unreachable", PATIENCE);
    assert_eq!(errno(reread(&mut file)), Some(EKEYEXPIRED));
    new_credentials(profile.path());
    mount.wait_state("open", PATIENCE);
    assert_eq!(reread(&mut file).expect("the same descriptor"), b"still there");
}

/// The lines of a store's sidecar pages.
fn lines(store: &Path) -> Vec<(std::path::PathBuf, String)> {
    let pages = crate::support::files(&store.join("keys"));
    let read = |p: &Path| fs::read_to_string(p).expect("a page is text");
    pages
        .iter()
        .flat_map(|p| read(p).lines().map(|l| (p.clone(), l.to_owned())).collect::<Vec<_>>())
        .collect()
}

/// An alias is pointed to another key: new data keys come from that, old files stay readable,
/// and each line names the key that wrapped it.
#[test]
fn an_alias_that_moves_leaves_old_files_readable() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let (first, second) = (new_key(&server, "kmsfs"), new_key(&server, "other"));
    let store =
        Store::aws(&server.url(), &credentials("test", "test"), &["--master-key", "alias/kmsfs"]);
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("old"), b"under the first").expect("written");
    mount.unmount();
    run(key(&server).args(["alias", "set", "alias/kmsfs", &second]));
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("new"), b"under the second").expect("written");
    assert_eq!(fs::read(mount.at("old")).expect("readable"), b"under the first");
    mount.unmount();
    let count = |id: &str| lines(&store.path()).iter().filter(|(_, l)| l.contains(id)).count();
    assert_eq!((count(&first), count(&second)), (1, 1), "a line for each file, none left over");
    let mount = store.mount(&[]);
    assert_eq!(fs::read(mount.at("new")).expect("readable"), b"under the second");
}

/// Branch keys come from the server, each under its own context: few calls, and one refusal locks.
#[test]
fn branch_keys_cost_few_calls() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let id = new_key(&server, "kmsfs");
    let args = ["--master-key", &id, "--data-keys", "branch"];
    let store = Store::aws(&server.url(), &credentials("test", "test"), &args);
    let mount = store.mount(&["--heartbeat", "1h"]);
    let name = |n: usize| format!("file{n}");
    for n in 0..200 {
        fs::write(mount.at(&name(n)), name(n)).expect("written");
    }
    assert!(mount.kms_calls() < 20, "{}", mount.report());
    mount.unmount();
    let mount = store.mount(&["--heartbeat", "1s"]);
    for n in 0..200 {
        assert_eq!(fs::read(mount.at(&name(n))).expect("readable"), name(n).as_bytes());
    }
    let calls = mount.kms_calls();
    // Counted when they end: one more may have been going on.
    let beats = 1 + mount.report()["beats"].as_u64().expect("a number");
    assert!(calls < 20 + 3 * beats, "{calls} calls, {beats} beats");
    run(key(&server).args(["disable", &id]));
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(fs::read(mount.at("file7"))), Some(EKEYREVOKED));
    run(key(&server).args(["enable", &id]));
    mount.wait_state("open", PATIENCE);
    assert_eq!(fs::read(mount.at("file7")).expect("readable"), b"file7");
}

/// A damaged wrapped key costs its own file alone: on a server that authenticates it, and on
/// one that gives a wrong key for it without an error.
#[test]
fn a_damaged_wrapped_key_rejects_one_file() {
    if skip() {
        return;
    }
    let mut servers = vec![Server::ministack(Rules::None)];
    if !skipped("localstack") {
        servers.push(Server::localstack());
    }
    for server in servers {
        let id = new_key(&server, "kmsfs");
        let store = Store::aws(&server.url(), &credentials("test", "test"), &["--master-key", &id]);
        let mount = store.mount(&[]);
        fs::write(mount.at("a"), b"first").expect("written");
        fs::write(mount.at("b"), b"second").expect("written");
        mount.unmount();
        let (page, line) = lines(&store.path()).swap_remove(0);
        // The last character before the padding or the quote of the wrapped key.
        let key = line.split(r#""key":""#).nth(1).expect("a wrapped key");
        let end = line.len() - key.len() + key.find('"').expect("it ends") - 6;
        let mut damaged = line.clone().into_bytes();
        damaged[end] = if damaged[end] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(damaged).expect("base64");
        let text = fs::read_to_string(&page).expect("a page");
        fs::write(&page, text.replace(&line, &damaged)).expect("written");
        let mount = store.mount(&["--heartbeat", "1s"]);
        let read = [fs::read(mount.at("a")), fs::read(mount.at("b"))];
        let rejected = read.iter().filter(|r| {
            r.as_ref().err().and_then(std::io::Error::raw_os_error) == Some(EKEYREJECTED)
        });
        assert_eq!(rejected.count(), 1, "{read:?}");
        assert_eq!(read.iter().filter(|r| r.is_ok()).count(), 1, "{read:?}");
        assert_eq!(mount.state(), "open");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_exit_code() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::Enforced);
    let id = new_key(&server, "kmsfs");
    let root = credentials("test", "test");
    let store = Store::aws(&server.url(), &root, &["--master-key", &id]);
    let mount = |env: &[(String, String)], args: &[&str]| {
        let mut command = kmsfs();
        command.arg("mount").arg(store.path()).arg(store.mountpoint()).args(args);
        command.args(["--endpoint-url", &server.url()]).envs(env.to_vec());
        command
    };
    let none: Vec<_> = root.iter().filter(|(k, _)| !k.contains("KEY")).cloned().collect();
    let said = fails(&mut mount(&none, &[]), 4);
    assert!(said.contains("no credentials were found"), "{said}");
    let said = fails(&mut mount(&credentials("AKIANOBODY", "wrong"), &[]), 4);
    assert!(said.contains("credentials are not accepted"), "{said}");
    let said = fails(&mut mount(&none, &["--profile", "absent"]), 4);
    assert!(said.contains("absent"), "{said}");
    run(key(&server).args(["disable", &id]));
    let said = fails(&mut mount(&root, &[]), 5);
    assert!(said.contains("DisabledException") && said.contains("key enable"), "{said}");
    run(key(&server).args(["enable", &id]));
    let mut nowhere = kmsfs();
    nowhere.arg("mount").arg(store.path()).arg(store.mountpoint()).envs(root.clone());
    let said = fails(nowhere.args(["--endpoint-url", "http://127.0.0.1:1"]), 6);
    assert!(said.contains("refused"), "{said}");
    let said = fails(kmsfs().arg("init").arg(store.mountpoint()).args(["--kms", "aws"]), 2);
    assert!(said.contains("--master-key") && said.contains("key --kms aws create"), "{said}");
    let told = run(kmsfs().arg("info").arg(store.path()));
    assert!(told.contains("aws (us-east-1)"), "{told}");
    mount(&root, &[]).status().expect("started").success().then_some(()).expect("it mounts");
    let status = run(kmsfs().arg("status").arg(store.mountpoint()));
    assert!(status.contains("about USD 3.07 a month"), "{status}");
    run(kmsfs().arg("unmount").arg(store.mountpoint()));
}

/// Every verb of `key`, where the server has it.
#[test]
fn keys_are_administered_over_the_network() {
    if skipped("localstack") {
        return;
    }
    let server = Server::localstack();
    let first = new_key(&server, "one");
    let second = run(key(&server).args(["create", "--description", "a second"])).trim().to_owned();
    let list = run(key(&server).arg("list"));
    assert!(list.contains(&first) && list.contains(&second), "{list}");
    let described = run(key(&server).args(["describe", &second]));
    assert!(described.contains("a second") && described.contains("Enabled"), "{described}");
    run(key(&server).args(["rotate", "alias/one"]));
    run(key(&server).args(["alias", "set", "one", &second]));
    let aliases = run(key(&server).args(["alias", "list"]));
    assert!(aliases.contains(&format!("alias/one  {second}")), "{aliases}");
    run(key(&server).args(["alias", "remove", "one"]));
    fails(key(&server).args(["describe", "alias/one"]), 5);
    fails(
        key(&server).args(["schedule-deletion", &first, "--pending-window-days", "6", "--yes"]),
        2,
    );
    fails(key(&server).args(["schedule-deletion", &first]), 2);
    run(key(&server).args(["schedule-deletion", &first, "--pending-window-days", "7", "--yes"]));
    fails(key(&server).args(["enable", &first]), 5);
    run(key(&server).args(["cancel-deletion", &first]));
    run(key(&server).args(["enable", &first]));
}
