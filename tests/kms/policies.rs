//! Key policies, on a server that enforces them. It evaluates principals and actions; conditions
//! on the encryption context it does not know, so those are linted only.

use std::fs;

use crate::support::server::{Rules, Server, credentials, key, new_key};
use crate::support::{Store, fails, kmsfs, run, skipped};

/// Users in the place of roles: their access keys, by name.
fn user(server: &Server, name: &str) -> Vec<(String, String)> {
    let made = server.python(&format!(
        "iam.create_user(UserName='{name}')
made = iam.create_access_key(UserName='{name}')['AccessKey']
print(made['AccessKeyId'], made['SecretAccessKey'])"
    ));
    let (id, secret) = made.split_once(' ').expect("two words");
    credentials(id, secret)
}

fn arn(name: &str) -> String {
    format!("arn:aws:iam::000000000000:user/{name}")
}

/// The policy that a key is made with lets the whole account do everything; the generated one
/// lets each do its own, and the server agrees.
#[test]
fn the_generated_policy_holds_where_the_default_does_not() {
    if skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::Enforced);
    let id = new_key(&server, "kmsfs");
    let root = credentials("test", "test");
    let recipient = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    let args = ["--master-key", &id, "--recovery", recipient];
    let store = Store::aws(&server.url(), &root, &args);
    let lint = |args: &[&str]| {
        let mut command = store.kmsfs();
        command.args(["policy", "lint"]).args(args);
        command
    };
    let path = store.path();
    let at = path.to_str().expect("UTF-8");
    let output = lint(&[at]).output().expect("started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("account-wide") && said.contains("no-context"), "{said}");

    let names = ["admin", "mount", "rewrap", "auditor", "break-glass"];
    let [admin, mount, _, auditor, break_glass] = names.map(|n| user(&server, n));
    let mut generate = store.kmsfs();
    generate.args(["policy", "generate", at]);
    for (option, name) in
        ["--administrator", "--mount", "--rewrap", "--auditor", "--break-glass"].iter().zip(names)
    {
        generate.arg(option).arg(arn(name));
    }
    let policy = run(&mut generate);
    let file = store.path().with_extension("policy");
    fs::write(&file, &policy).expect("written");
    run(&mut lint(&["--file", file.to_str().expect("UTF-8"), "--fail-on", "warning"]));
    server.python(&format!(
        "kms.put_key_policy(KeyId='{id}', PolicyName='default', Policy=open('{}').read())",
        file.display()
    ));
    let text = run(&mut lint(&[at, "--fail-on", "warning", "--output", "json"]));
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let all = found.as_array().expect("a list");
    let around = all.iter().find(|f| f["rule"] == "recovery").expect("no policy holds it up");
    assert_eq!(around["severity"], "note", "{text}");

    let described = run(key(&server).envs(root).args(["describe", &id]));
    let master = described.lines().find_map(|l| l.strip_prefix("arn")).expect("its ARN").trim();
    let verb = |who: &[(String, String)], verb: &str| {
        let mut command = key(&server);
        command.envs(who.to_vec()).args([verb, master]);
        command
    };
    fails(&mut verb(&admin, "disable"), 5);
    fails(&mut verb(&mount, "disable"), 5);
    run(&mut verb(&auditor, "describe"));
    run(&mut verb(&break_glass, "disable"));
    run(&mut verb(&admin, "enable"));
    let test = |who: &[(String, String)]| {
        let mut command = kmsfs();
        command.args(["policy", "test", at, "--endpoint-url", &server.url()]).envs(who.to_vec());
        command
    };
    let said = fails(&mut test(&auditor), 5);
    assert!(said.contains("cannot mount") && said.contains("--for mount"), "{said}");
    fails(&mut test(&admin), 5);
}

/// The same three verbs where they need no server, and what they say of a store without one.
#[test]
fn policies_are_of_aws_only_and_tests_of_every_provider() {
    let store = Store::new(&[]);
    let path = store.path();
    let at = path.to_str().expect("UTF-8");
    let said = fails(kmsfs().args(["policy", "lint", at]), 2);
    assert!(said.contains("embedded keystore"), "{said}");
    let said = run(kmsfs().args(["policy", "test", at]));
    assert_eq!(said.matches(" yes ").count(), 4, "{said}");
    store.key(&["disable", "alias/kmsfs"]);
    fails(kmsfs().args(["policy", "test", at]), 5);
    fails(kmsfs().args(["policy", "generate", at]), 2);
    let mut lint = kmsfs();
    lint.args(["policy", "lint", "--file", "/dev/null"]);
    assert!(fails(&mut lint, 1).contains("not JSON"));
}
