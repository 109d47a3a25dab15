//! Mounts under a key of OpenBao's.

use std::fs;

use super::super::switch::{self, reread, written};
use crate::support::bao::Bao;
use crate::support::demo::{Demo, assert_kept, assert_played};
use crate::support::{
    EKEYEXPIRED, EKEYREVOKED, PATIENCE, Store, errno, fails, kmsfs, run, skipped, wait_for,
};

fn skip() -> bool {
    skipped("fuse") || skipped("openbao")
}

/// A store on a new key of the server's, `kmsfs`, as root.
fn store(bao: &Bao) -> Store {
    bao.cli(&["write", "-f", "transit/keys/kmsfs"]);
    Store::vault(&bao.env(bao.root()), &["--master-key", "alias/kmsfs"])
}

/// The kill switch, from another process; what was synced is there again, with no remount.
#[test]
fn a_disabled_key_locks_the_mount_and_an_enabled_one_opens_it() {
    if skip() {
        return;
    }
    let bao = Bao::start();
    let store = store(&bao);
    let mount = store.mount(&["--heartbeat", "1s"]);
    let file = written(&mount, "file", b"in Vault's hands");
    switch::locks_and_opens(&store, &mount, ("file", &file), b"in Vault's hands");

    // What a server without soft deletion has: versions that are retired.
    bao.cli(&["write", "-f", "transit/keys/kmsfs/rotate"]);
    bao.cli(&["write", "transit/keys/kmsfs/config", "min_decryption_version=2"]);
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(reread(&file)), Some(EKEYREVOKED));
    bao.cli(&["write", "transit/keys/kmsfs/config", "min_decryption_version=1"]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(reread(&file).expect("the same descriptor"), b"in Vault's hands");
    fs::write(mount.at("new"), b"and it goes on").expect("written");
}

/// Nothing is readable later than the heartbeat and a second after the disable is asked for.
#[test]
fn the_bound_holds() {
    if skip() {
        return;
    }
    let bao = Bao::start();
    let store = store(&bao);
    switch::holds_the_bound(&store);
}

/// A token that is revoked, and one whose policy no longer lets it, is refused; another one in the
/// file opens the mount again.
#[test]
fn a_revoked_token_locks_the_mount_until_another_lies_in_the_file() {
    if skip() {
        return;
    }
    let bao = Bao::start();
    bao.cli(&["write", "-f", "transit/keys/kmsfs"]);
    bao.allow("mount", "kmsfs");
    let token_file = bao.at("token");
    let new_token = || {
        let token = bao.token("mount", "1h");
        fs::write(&token_file, &token).expect("written");
        token
    };
    let first = new_token();
    let name = token_file.to_str().expect("UTF-8");
    let options = ["--master-key", "vault:transit:key/kmsfs", "--vault-token-file", name];
    let store = Store::vault(&bao.place(), &options);
    let options = [&options[..], &["--heartbeat", "1s"]].concat();
    let mount = store.mount(&options);
    let file = written(&mount, "file", b"least privilege");
    let locked = || {
        mount.wait_state("revoked", PATIENCE);
        assert_eq!(errno(reread(&file)), Some(EKEYREVOKED));
        assert!(mount.last_error().contains("AccessDenied"), "{}", mount.last_error());
    };
    let opens = || {
        mount.wait_state("open", PATIENCE);
        assert_eq!(reread(&file).expect("the same descriptor"), b"least privilege");
    };
    bao.cli(&["token", "revoke", &first]);
    locked();
    new_token();
    opens();
    bao.allow("mount", "another");
    locked();
    bao.allow("mount", "kmsfs");
    opens();
}

/// A server that is gone, and one that is sealed, are outages: the mount works on until its grace
/// is over, and opens by itself.
#[test]
fn a_server_that_is_gone_or_sealed_is_an_outage() {
    if skip() {
        return;
    }
    let mut bao = Bao::start();
    let store = store(&bao);
    let mount = store.mount(&["--heartbeat", "1s", "--outage-grace", "5s"]);
    let file = written(&mount, "file", b"cached");
    type Turn = fn(&mut Bao);
    let outages: [(&str, Turn, Turn); 2] = [
        ("refused", Bao::stop, Bao::start_again),
        ("Sealed", |bao| bao.seal(), |bao| bao.unseal()),
    ];
    for (said, begin, end) in outages {
        begin(&mut bao);
        wait_for("a failed beat", PATIENCE, || mount.last_error().contains(said));
        assert_eq!(mount.state(), "open", "{said}: within the grace");
        assert_eq!(reread(&file).expect("cached"), b"cached");
        mount.wait_state("unreachable", PATIENCE);
        assert_eq!(errno(reread(&file)), Some(EKEYEXPIRED), "{said}");
        end(&mut bao);
        mount.wait_state("open", PATIENCE);
        assert_eq!(reread(&file).expect("again"), b"cached");
    }
}

/// A token of a few seconds is renewed, and had anew when it may not live longer.
#[test]
fn approle_keeps_a_mount_alive() {
    if skip() {
        return;
    }
    let bao = Bao::start();
    bao.cli(&["write", "-f", "transit/keys/kmsfs"]);
    bao.allow("mount", "kmsfs");
    let role = "auth/approle/role/mount";
    bao.cli(&["write", role, "token_policies=mount", "token_ttl=3s", "token_max_ttl=8s"]);
    let role_id = bao.cli(&["read", "-field=role_id", &format!("{role}/role-id")]);
    let secret_id = bao.cli(&["write", "-f", "-field=secret_id", &format!("{role}/secret-id")]);
    let file = bao.at("secret-id");
    fs::write(&file, &secret_id).expect("written");
    let login = ["--vault-auth", "approle", "--vault-role-id", &role_id, "--vault-secret-id-file"];
    let login = [&login[..], &[file.to_str().expect("UTF-8")]].concat();
    let store = Store::vault(&bao.place(), &[&login[..], &["--master-key", "kmsfs"]].concat());
    let mount = store.mount(&[&login[..], &["--heartbeat", "1s"]].concat());
    let open = written(&mount, "file", b"by a role");
    let beats = || mount.report()["beats"].as_u64().expect("a number");
    // Past the last end of more than two tokens.
    wait_for("beats", PATIENCE, || beats() >= 24);
    assert_eq!(mount.report()["beats_failed"].as_u64(), Some(0), "{}", mount.last_error());
    assert_eq!(
        (mount.state().as_str(), reread(&open).expect("readable")),
        ("open", b"by a role".to_vec())
    );
    // The operator's word against the role ends it, when its tokens are revoked too.
    bao.cli(&["delete", role]);
    bao.cli(&["lease", "revoke", "-force", "-prefix", "auth/approle/"]);
    mount.wait_state("revoked", PATIENCE);
    assert_eq!(errno(reread(&open)), Some(EKEYREVOKED));
}

/// The certificate of TLS logs a mount in.
#[test]
fn a_client_certificate_logs_in() {
    if skip() {
        return;
    }
    let bao = Bao::start();
    bao.cli(&["write", "-f", "transit/keys/kmsfs"]);
    bao.allow("mount", "kmsfs");
    bao.cli(&["auth", "enable", "cert"]);
    let ca = format!("certificate=@{}", bao.at("ca.pem").display());
    bao.cli(&["write", "auth/cert/certs/mount", "token_policies=mount", "token_ttl=4s", &ca]);
    let [cert, key] = ["client.pem", "client.key"].map(|n| bao.at(n).display().to_string());
    let login = ["--vault-auth", "cert", "--vault-client-cert", &cert, "--vault-client-key", &key];
    let store = Store::vault(&bao.place(), &[&login[..], &["--master-key", "kmsfs"]].concat());
    let mount = store.mount(&[&login[..], &["--heartbeat", "1s"]].concat());
    let file = written(&mount, "file", b"by a certificate");
    let beats = || mount.report()["beats"].as_u64().expect("a number");
    wait_for("beats", PATIENCE, || beats() >= 10);
    assert_eq!(mount.report()["beats_failed"].as_u64(), Some(0), "{}", mount.last_error());
    assert_eq!(reread(&file).expect("readable"), b"by a certificate");
}

/// Who can write a store cannot have its token sent elsewhere.
#[test]
fn a_token_goes_only_where_the_user_says() {
    if skip() {
        return;
    }
    let bao = Bao::start();
    let store = store(&bao);
    let told = run(kmsfs().arg("info").arg(store.path()));
    assert!(told.contains(&bao.url()) && told.contains("vault:transit:key/kmsfs"), "{told}");
    let mount = |env: &[(&str, &str)]| {
        let mut command = kmsfs();
        command.arg("mount").arg(store.path()).arg(store.mountpoint());
        command.env("VAULT_TOKEN", bao.root()).envs(env.iter().copied());
        command
    };
    let said = fails(&mut mount(&[]), 4);
    assert!(said.contains("only where you say") && said.contains(&bao.url()), "{said}");
    let url = bao.url();
    let said = fails(&mut mount(&[("VAULT_ADDR", &url), ("VAULT_SKIP_VERIFY", "1")]), 4);
    assert!(said.contains("SKIP_VERIFY"), "{said}");
    let said = fails(&mut mount(&[("VAULT_ADDR", "http://bao.example:8200")]), 2);
    assert!(said.contains("--plain-http"), "{said}");
    let said = fails(&mut mount(&[("VAULT_ADDR", &url)]), 6);
    assert!(said.contains("--vault-cacert"), "{said}");
    let ca = bao.at("ca.pem").display().to_string();
    let place = [("VAULT_ADDR", url.as_str()), ("VAULT_CACERT", &ca), ("VAULT_TOKEN", "s.nobody")];
    let said = fails(&mut mount(&place), 5);
    assert!(said.contains("AccessDenied"), "{said}");
    let said = fails(mount(&place[..2]).env_remove("VAULT_TOKEN").env("HOME", "/nonexistent"), 4);
    assert!(said.contains("no token") && said.contains("bao login"), "{said}");
}

#[test]
fn the_demo_keeps_its_promises_with_a_key_of_vault_s() {
    if skip() {
        return;
    }
    let bao = Bao::start();
    bao.cli(&["write", "-f", "transit/keys/shown"]);
    let demo = Demo::new();
    let token = bao.at("token");
    fs::write(&token, bao.root()).expect("written");
    let token = token.to_str().expect("UTF-8");
    let mut command = demo.command(&["--kms", "vault", "--key", "shown"]);
    command.args(["--vault-token-file", token, "--heartbeat", "1s", "--seconds", "1"]);
    command.args(["--also", "all"]);
    let output = command.envs(bao.place()).output().expect("started");
    assert_kept(&output, &demo.report());
    let parts: [(&str, &[&str]); 2] = [
        ("copy", &["the copy does not mount: exit code 5"]),
        ("neighbours", &["second store: locked ", "store under another key: open all the time"]),
    ];
    assert_played(&output, &demo.report(), &parts);
    let told = String::from_utf8_lossy(&output.stdout);
    for why in ["Transit deletes a key at once", "certificate", "--deny COMMAND --allow COMMAND"] {
        assert!(told.lines().any(|l| l.starts_with("left out: ") && l.contains(why)), "{told}");
    }
    demo.assert_gone();
}
