//! What a bad network or a bad server does to a mount: each fault ends in its class, within its
//! bound, and is over when it is over.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::support::proxy::{Fault, Proxy};
use crate::support::server::{Rules, Server, credentials, new_key};
use crate::support::{EKEYEXPIRED, EKEYREVOKED, PATIENCE, Store, errno, fails, run, skipped};

/// A request waits four seconds for its key; the rest is this machine's.
const BOUND: Duration = Duration::from_secs(7);

struct Bench {
    _server: Server,
    proxy: Proxy,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let server = Server::ministack(Rules::None);
        let proxy = Proxy::before(server.port());
        let store = store(&proxy, &new_key(&server, "kmsfs"));
        Self { _server: server, proxy, store }
    }
}

/// A store behind a proxy, with two files that no cache knows yet.
fn store(proxy: &Proxy, key: &str) -> Store {
    let store = Store::aws(&proxy.url(), &credentials("test", "test"), &["--master-key", key]);
    let mount = store.mount(&[]);
    fs::write(mount.at("cached"), b"its key is at hand").expect("written");
    fs::write(mount.at("cold"), b"its key is not").expect("written");
    mount.unmount();
    store
}

fn skip() -> bool {
    skipped("fuse") || skipped("ministack")
}

/// Under each fault that is no answer: what is cached is read on, what is not is EKEYEXPIRED
/// within the bound, the mount locks as unreachable when the grace is over, never as revoked,
/// and opens when the fault is gone.
#[test]
fn no_answer_that_counts_is_an_outage() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let key = new_key(&server, "kmsfs");
    let faults = [
        ("Timeout", Fault::Hang),
        ("", Fault::Reset),
        ("KMSInternalException", Fault::server()),
        ("ServerFault", Fault::Answer(502, "<html>bad gateway</html>".to_owned())),
        ("ServerFault", Fault::Answer(403, "<html>no entry</html>".to_owned())),
        ("ThrottlingException", Fault::throttling()),
        ("", Fault::Half),
        ("MalformedAnswer", Fault::wrong_json()),
        ("MalformedAnswer", Fault::Answer(200, "{}".to_owned())),
        ("Timeout", Fault::Drip),
        ("credentials have expired", Fault::error("ExpiredTokenException", "it is expired")),
        (
            "this machine's clock is off",
            Fault::error("InvalidSignatureException", "Signature expired: it is now earlier"),
        ),
    ];
    // Each on a mount of its own, some side by side: all they do is wait. All at once would keep
    // the server from answering in time.
    for wave in faults.chunks(4) {
        std::thread::scope(|scope| {
            for (said, fault) in wave {
                let (server, key) = (&server, &key);
                scope.spawn(move || is_an_outage(server, key, said, fault));
            }
        });
    }
}

fn is_an_outage(server: &Server, key: &str, said: &str, fault: &Fault) {
    let proxy = Proxy::before(server.port());
    let store = store(&proxy, key);
    let mount = store.mount(&["--heartbeat", "1s", "--outage-grace", "6s"]);
    let cached = File::open(mount.at("cached")).expect("opened");
    proxy.set(fault.clone());
    let start = Instant::now();
    let cold = errno(File::open(mount.at("cold")));
    let took = start.elapsed();
    assert!(cold == Some(EKEYEXPIRED) && took < BOUND, "{fault:?}: {cold:?} after {took:?}");
    assert_eq!(mount.state(), "open", "{fault:?}: within the grace");
    let mut byte = [0];
    cached.read_at(&mut byte, 0).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    mount.wait_state("unreachable", PATIENCE);
    assert_eq!(errno(cached.read_at(&mut byte, 0)), Some(EKEYEXPIRED), "{fault:?}");
    let told = mount.last_error();
    assert!(told.contains(said), "{fault:?}: {told}");
    proxy.set(Fault::None);
    mount.wait_state("open", PATIENCE);
    let cold = fs::read(mount.at("cold")).unwrap_or_else(|e| panic!("{fault:?}: {e}"));
    assert_eq!(cold, b"its key is not");
}

/// A definite no locks at once, whatever the grace; for one operation of the three, too.
#[test]
fn a_definite_no_is_a_refusal_whichever_call_gets_it() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let store = &bench.store;
    let refusals = [
        "DisabledException",
        "KMSInvalidStateException",
        "NotFoundException",
        "AccessDeniedException",
    ];
    let mount = store.mount(&["--heartbeat", "1s", "--outage-grace", "1h"]);
    for (code, operation) in refusals.iter().zip(["", "GenerateDataKey", "Decrypt", "Decrypt"]) {
        bench.proxy.set_for(operation, Fault::error(code, "because"));
        mount.wait_state("revoked", PATIENCE);
        assert_eq!(errno(File::open(mount.at("cached"))), Some(EKEYREVOKED), "{code}");
        assert!(mount.last_error().contains(code), "{}", mount.last_error());
        bench.proxy.set(Fault::None);
        mount.wait_state("open", PATIENCE);
    }
}

/// The credentials were deleted, or their account was suspended: an outage of a quarter of an hour.
#[test]
fn credentials_that_the_kms_does_not_know_lock_after_a_grace_of_their_own() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let graces = ["--heartbeat", "1s", "--outage-grace", "1h", "--credentials-grace", "3s"];
    let mount = bench.store.mount(&graces);
    let cached = File::open(mount.at("cached")).expect("opened");
    for code in ["InvalidClientTokenId", "OptInRequired", "UnrecognizedClientException"] {
        let began = Instant::now();
        bench.proxy.set(Fault::error(code, "because"));
        mount.wait_state("revoked", PATIENCE);
        assert!(began.elapsed() > Duration::from_secs(3), "{code}: no grace was left");
        assert_eq!(errno(cached.read_at(&mut [0], 0)), Some(EKEYREVOKED), "{code}");
        let told = mount.last_error();
        assert!(told.contains(code) && told.contains("credentials are not accepted"), "{told}");
        bench.proxy.set(Fault::None);
        mount.wait_state("open", PATIENCE);
    }
}

/// A KMS that hangs stalls nothing that needs no KMS: neither reads and writes under cached
/// keys nor creation, while the pool lasts, nor what needs no key at all.
#[test]
fn a_hanging_kms_stalls_nothing_that_has_its_key() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let store = &bench.store;
    let mount = store.mount(&["--heartbeat", "1s", "--direct-io", "--key-ttl", "1s"]);
    let file = File::options().read(true).write(true).open(mount.at("cached")).expect("opened");
    let beats = bench.proxy.calls("GenerateDataKey");
    bench.proxy.set(Fault::Hang);
    // Long enough that each key's time is up, and several beats hang.
    crate::support::wait_for("hanging beats", PATIENCE, || {
        bench.proxy.calls("GenerateDataKey") >= beats + 3
    });
    let start = Instant::now();
    for round in 0..200u64 {
        file.write_all_at(&round.to_le_bytes(), 0).expect("written");
        let mut back = [0; 8];
        file.read_exact_at(&mut back, 0).expect("readable");
        assert_eq!(back, round.to_le_bytes());
    }
    fs::create_dir(mount.at("dir")).expect("made");
    assert_eq!(fs::read_dir(mount.root()).expect("listed").count(), 3);
    fs::metadata(mount.at("cold")).expect("needs no key");
    assert!(start.elapsed() < BOUND, "stalled for {:?}", start.elapsed());
    file.sync_all().expect("synced");
    bench.proxy.set(Fault::None);
}

/// A program that opened many files at once was refused from the 193rd on, without any wait.
#[test]
fn hundreds_of_requests_wait_for_their_keys() {
    if skip() {
        return;
    }
    let server = Server::ministack(Rules::None);
    let proxy = Proxy::before(server.port());
    let key = new_key(&server, "kmsfs");
    let env = credentials("test", "test");
    let store = Store::aws(&proxy.url(), &env, &["--master-key", &key, "--data-keys", "branch"]);
    let mount = store.mount(&[]);
    let names: Vec<_> = (0..600).map(|n| mount.at(&format!("cold-{n}"))).collect();
    names.iter().for_each(|name| fs::write(name, b"text").expect("written"));
    mount.unmount();
    for transport in ["auto", "off"] {
        let mount = store.mount(&["--heartbeat", "1h", "--io-uring", transport]);
        proxy.set(Fault::Hang);
        let wait = |name| {
            let start = Instant::now();
            (errno(fs::read(name)), start.elapsed() > Duration::from_secs(3))
        };
        let waited: Vec<_> = std::thread::scope(|scope| {
            let programs: Vec<_> =
                names.iter().map(|name| scope.spawn(move || wait(name))).collect();
            programs.into_iter().map(|program| program.join().expect("no panic")).collect()
        });
        let refused =
            waited.iter().filter(|outcome| **outcome != (Some(EKEYEXPIRED), true)).count();
        assert_eq!(refused, 0, "over {transport}: {:?}", &waited[..3]);
        proxy.set(Fault::None);
        names.iter().for_each(|name| assert_eq!(fs::read(name).expect("readable"), b"text"));
        mount.unmount();
    }
}

/// Each was three calls: what came back was decrypted, and the canary, under one key.
#[test]
fn a_beat_is_two_calls() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let mount = bench.store.mount(&["--heartbeat", "1s"]);
    let beats = || mount.report()["beats"].as_u64().expect("a number");
    let (before, begun) = (bench.proxy.calls("Decrypt"), beats());
    crate::support::wait_for("ten beats", PATIENCE, || beats() >= begun + 10);
    // A call counts when it is made, a beat when it is over: one may be going on at either end.
    let (calls, beats) = (bench.proxy.calls("Decrypt") - before, beats() - begun);
    assert!((beats - 1..=beats + 2).contains(&calls), "{calls} of Decrypt in {beats} beats");
}

/// A KMS that is slow is only slow.
#[test]
fn latency_changes_nothing_but_time() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let store = &bench.store;
    bench.proxy.set(Fault::Latency(Duration::from_millis(200)));
    let mount = store.mount(&["--heartbeat", "1s", "--outage-grace", "1s"]);
    let beats = bench.proxy.calls("Decrypt");
    for n in 0..40 {
        fs::write(mount.at(&format!("new-{n}")), b"text").expect("written");
    }
    assert_eq!(fs::read(mount.at("cold")).expect("readable"), b"its key is not");
    crate::support::wait_for("five beats", PATIENCE, || bench.proxy.calls("Decrypt") >= beats + 5);
    assert_eq!(mount.state(), "open");
}

/// A daemon that starts without a network says so and ends, within a bound, and so does every
/// verb that asks a KMS.
#[test]
fn nothing_starts_on_a_kms_that_hangs() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let store = &bench.store;
    bench.proxy.set(Fault::Hang);
    let start = Instant::now();
    let said = fails(store.kmsfs().arg("mount").arg(store.path()).arg(store.mountpoint()), 6);
    assert!(said.contains("no answer in time"), "{said}");
    fails(store.kmsfs().args(["key", "--kms", "aws", "list"]), 6);
    assert!(start.elapsed() < BOUND * 2, "{:?}", start.elapsed());
    bench.proxy.set(Fault::throttling());
    fails(store.kmsfs().args(["key", "--kms", "aws", "list"]), 6);
    bench.proxy.set(Fault::None);
    run(store.kmsfs().args(["key", "--kms", "aws", "list"]));
}

/// Answers of a wrong shape: a key of the wrong length, another key's, none.
#[test]
fn an_answer_is_never_trusted() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let store = &bench.store;
    let other = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000";
    let short = r#"{"KeyId":"ARN","Plaintext":"AAAA","CiphertextBlob":"AAAA"}"#;
    let long = r#"{"KeyId":"ARN","Plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","CiphertextBlob":""}"#;
    for body in [short.replace("ARN", other), long.replace("ARN", other), long.replace("ARN", "x")]
    {
        bench.proxy.set(Fault::Answer(200, body.clone()));
        let output = store
            .kmsfs()
            .arg("mount")
            .arg(store.path())
            .arg(store.mountpoint())
            .output()
            .expect("started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(3 | 6)), "{body}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    bench.proxy.set(Fault::None);
    drop(store.mount(&[]));
}

/// Files made together are read together: when two of a page had to wait for the network, the
/// others' keys are there before they are asked for, and need no KMS any more.
#[test]
fn the_keys_of_neighbours_are_fetched_ahead() {
    if skip() {
        return;
    }
    let bench = Bench::new();
    let mount = bench.store.mount(&[]);
    let names: Vec<_> = (0..16).map(|n| format!("neighbour-{n}")).collect();
    for name in &names {
        fs::write(mount.at(name), name).expect("written");
    }
    mount.unmount();
    let mount = bench.store.mount(&["--heartbeat", "1h"]);
    let mut read = names.iter().map(|n| fs::read_to_string(mount.at(n)).expect("readable") == *n);
    assert!(read.by_ref().take(4).all(|same| same));
    // They may lie on two pages: the pool's first was begun by the mount that made the store.
    crate::support::wait_for("the keys of all", PATIENCE, || {
        mount.report()["keys_cached"].as_u64() >= Some(16)
    });
    bench.proxy.set(Fault::Hang);
    let calls = bench.proxy.calls("Decrypt");
    let mut misses = 0;
    for _ in 0..8 {
        misses += usize::from(!read.next().expect("sixteen files"));
    }
    assert_eq!((misses, bench.proxy.calls("Decrypt")), (0, calls));
    bench.proxy.set(Fault::None);
}
