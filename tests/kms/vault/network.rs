//! OpenBao as it is met in the field: behind a proxy (tinyproxy), over a slow line, and with logins
//! that hang.

use std::fs;
use std::time::Duration;

use kmsfs::ids::VolumeId;
use kmsfs::kms::vault::{Auth, Place, VaultKms};
use kmsfs::kms::{Context, KeyRef, KeyService, Verdict};

use super::calls::place;
use crate::support::bao::Bao;
use crate::support::port::free_port;
use crate::support::proxy::{Fault, Proxy, assert_more_time_helps};
use crate::support::tinyproxy::Tinyproxy;
use crate::support::{PATIENCE, Store, fails, kmsfs, run, skipped, wait_for};

fn server() -> Bao {
    let bao = Bao::start();
    bao.cli(&["write", "-f", "transit/keys/kmsfs"]);
    bao
}

/// It was passed over: a machine that has no other way out could not mount.
#[test]
fn a_proxy_is_gone_through_where_one_is_named() {
    if skipped("openbao") || skipped("network") || skipped("fuse") {
        return;
    }
    let bao = server();
    let proxy = Tinyproxy::to(bao.port());
    let list = |url: &str| {
        let mut list = kmsfs();
        list.args(["key", "--kms", "vault", "list"]).envs(bao.env(bao.root()));
        list.env("HTTPS_PROXY", url).env("KMSFS_KMS_TIMEOUT", "10s");
        list
    };
    run(&mut list(&proxy.url()));
    assert!(proxy.led() > 0);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    fails(&mut list(&nobody), 6);
    run(list(&nobody).env("NO_PROXY", "example.org,127.0.0.0/8"));
    for none in ["ftp://::", "socks5://127.0.0.1"] {
        assert!(fails(&mut list(none), 4).contains("HTTPS_PROXY"), "{none}");
    }
    // A proxy would read data keys of what goes without TLS.
    run(list(&nobody).env("VAULT_ADDR", format!("http://127.0.0.1:{}", bao.plain_port())));

    let mut env = bao.env(bao.root());
    env.push(("HTTPS_PROXY".to_owned(), proxy.url()));
    env.push(("KMSFS_KMS_TIMEOUT".to_owned(), "10s".to_owned()));
    let store = Store::vault(&env, &["--master-key", "kmsfs"]);
    let led = proxy.led();
    let mount = store.mount(&["--heartbeat", "1s"]);
    fs::write(mount.at("file"), b"content").expect("written");
    assert!(proxy.led() > led);
    store.key(&["disable", "kmsfs"]);
    mount.wait_state("revoked", PATIENCE);
    store.key(&["enable", "kmsfs"]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
}

/// `--kms-timeout` was AWS's alone.
#[test]
fn a_slow_line_is_given_more_time() {
    if skipped("openbao") || skipped("fuse") {
        return;
    }
    let bao = server();
    let line = Proxy::before(bao.plain_port());
    let env = [("VAULT_ADDR", line.url()), ("VAULT_TOKEN", bao.root().to_owned())];
    let env = env.map(|(name, value)| (name.to_owned(), value));
    let store = Store::vault(&env, &["--master-key", "kmsfs"]);
    assert_more_time_helps(&line, &store);
}

/// Whoever has a token that is good waits for no other: a login that hung held up every call,
/// heartbeats too, and each refusal.
#[test]
fn a_login_that_hangs_holds_up_no_call_that_has_a_token() {
    if skipped("openbao") {
        return;
    }
    let bao = server();
    bao.allow("mount", "kmsfs");
    let role = "auth/approle/role/mount";
    bao.cli(&["write", role, "token_policies=mount", "token_ttl=20s", "token_max_ttl=20s"]);
    let role_id = bao.cli(&["read", "-field=role_id", &format!("{role}/role-id")]);
    let secret_id = bao.cli(&["write", "-f", "-field=secret_id", &format!("{role}/secret-id")]);
    let file = bao.at("secret-id");
    fs::write(&file, secret_id).expect("written");
    let key = |name: &str| KeyRef(name.to_owned());
    let context = Context::volume(VolumeId::random());
    // Half of the token's time is over when it is renewed, and then logged in for.
    for hung in ["renew-self", "login"] {
        let proxy = Proxy::before(bao.plain_port());
        let auth = Auth::AppRole {
            mount: "approle".to_owned(),
            role_id: role_id.clone(),
            secret_id_file: Some(file.clone()),
        };
        let time_limit = Duration::from_secs(60);
        let place = Place { address: proxy.url(), time_limit, auth, ..place(&bao, "") };
        let kms = VaultKms::new(&place).expect("a client");
        let wrapped = kms.generate(&key("kmsfs"), &context).expect("made").wrapped;
        let calls = proxy.calls(hung);
        proxy.set_for(hung, Fault::Hang);
        wait_for(hung, PATIENCE, || proxy.calls(hung) > calls);
        for door in [&kms, &kms.sibling()] {
            door.decrypt(&key("kmsfs"), &wrapped, &context).expect("by the token that it has");
        }
        let refused = kms.generate(&key("another"), &context).expect_err("not by its policy");
        assert_eq!(refused.verdict, Verdict::Refused, "{refused}");
        assert_eq!(proxy.calls(hung), calls + 1, "{hung}: its first try hangs all the while");
    }
}
