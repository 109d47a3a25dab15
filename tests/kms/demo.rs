//! `kmsfs demo` on a key of one's own, in a KMS that another process serves.

use std::process::Command;

use crate::support::demo::{Demo, assert_kept, assert_played, interrupted_at};
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

/// Every part with an identity that is not the account's root: what it may do with the key can be
/// taken from it, and given back.
#[test]
fn the_further_parts_are_played_with_a_key_of_ones_own() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::Enforced);
    new_key(&server, "shown");
    let demo = Demo::new();
    let policy = |name: &str, actions: &str| {
        format!(
            "iam.put_user_policy(UserName='shown', PolicyName='{name}', PolicyDocument=json.dumps(
    {{'Version': '2012-10-17', 'Statement': [{{'Effect': 'Allow', 'Resource': '*',
        'Action': [{actions}]}}]}}))\n"
        )
    };
    let allow = policy("use", "'kms:GenerateDataKey', 'kms:Decrypt'");
    let administer = policy(
        "administer",
        "'kms:Describe*', 'kms:List*', 'kms:DisableKey', 'kms:EnableKey',
         'kms:ScheduleKeyDeletion', 'kms:CancelKeyDeletion', 'kms:GetKeyLastUsage'",
    );
    let made = server.python(&format!(
        "iam.create_user(UserName='shown')\n{allow}{administer}
made = iam.create_access_key(UserName='shown')['AccessKey']
print(made['AccessKeyId'], made['SecretAccessKey'])"
    ));
    let (id, secret) = made.split_once(' ').expect("two words");
    let deny = "iam.delete_user_policy(UserName='shown', PolicyName='use')";
    let deny = server.shell_line(&demo.0.path().join("deny.py"), deny);
    let allow = server.shell_line(&demo.0.path().join("allow.py"), &allow);
    let mut command = demo_on(&server, &demo, "1");
    command.args(["--also", "all", "--deny", &deny, "--allow", &allow]);
    let output = command.envs(credentials(id, secret)).output().expect("started");
    assert_kept(&output, &demo.report());
    let locks: &[&str] = &["locked ", "no program&#39;s last success later than ", "open again "];
    let parts: [(&str, &[&str]); 5] = [
        ("deletion", locks),
        ("network", &["a file whose key is not cached: EKEYEXPIRED", "no lock: open all the time"]),
        ("permission", locks),
        (
            "copy",
            &["the copy does not mount: exit code 5", "with the key enabled: the copy mounts"],
        ),
        ("neighbours", &["second store: locked ", "store under another key: open all the time"]),
    ];
    assert_played(&output, &demo.report(), &parts);
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
    let (code, told) = interrupted_at(demo_on(&server, &demo, "5"), "EKEYREVOKED", || {
        assert_eq!(state(&server), "Disabled");
    });
    assert!(told.iter().any(|line| line.contains(" enable ")), "the user is told: {told:?}");
    assert_eq!((code, state(&server).as_str()), (Some(1), "Enabled"));
    demo.assert_gone();
}

/// And so it is while its deletion is scheduled.
#[test]
fn an_interrupted_deletion_is_cancelled() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    new_key(&server, "shown");
    let demo = Demo::new();
    let mut command = demo_on(&server, &demo, "1");
    command.args(["--also", "deletion"]);
    let (code, told) = interrupted_at(command, " schedule-deletion ", || ());
    assert!(told.iter().any(|line| line.contains(" cancel-deletion ")), "{told:?}");
    assert_eq!((code, state(&server).as_str()), (Some(1), "Enabled"));
    demo.assert_gone();
}
