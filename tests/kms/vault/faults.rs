//! What a bad network or a bad server does to a call: each fault ends in its class, within the bound
//! of a call, and is over when it is over. What a mount makes of the classes is in `kms/faults.rs`.

use std::time::{Duration, Instant};

use kmsfs::ids::VolumeId;
use kmsfs::kms::vault::{Place, VaultKms};
use kmsfs::kms::{Context, KeyAdmin, KeyRef, KeyService, Verdict};

use super::calls::{place, root};
use crate::support::bao::Bao;
use crate::support::proxy::{Fault, Proxy};
use crate::support::skipped;

/// Of a call with all its tries; the rest is this machine's.
const BOUND: Duration = Duration::from_secs(6);

#[test]
fn no_answer_that_counts_is_an_outage() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    root(&bao).create_as("alias/k", "").expect("made");
    let (key, context) = (KeyRef("k".to_owned()), Context::volume(VolumeId::random()));
    let proxy = Proxy::before(bao.plain_port());
    let kms = VaultKms::new(&Place { address: proxy.url(), ..place(&bao, bao.root()) });
    let kms = kms.expect("a client");
    let wrapped = kms.generate(&key, &context).expect("made").wrapped;
    let json = |text: &str| format!(r#"{{"errors":["{text}"]}}"#);
    let faults = [
        ("Timeout", 3, Fault::Hang),
        ("Unreachable", 3, Fault::Reset),
        ("Timeout", 3, Fault::Drip),
        ("", 3, Fault::Half),
        ("ServerFault", 3, Fault::Answer(500, json("permission denied"))),
        ("ServerFault", 3, Fault::Answer(502, "<html>bad gateway</html>".to_owned())),
        ("ServerFault", 3, Fault::Answer(403, "<html>permission denied</html>".to_owned())),
        ("ThrottlingException", 3, Fault::Answer(429, json("rate limit exceeded"))),
        ("Sealed", 3, Fault::Answer(503, json("Vault is sealed"))),
        ("Standby", 3, Fault::Answer(307, json(""))),
        ("UnknownAnswer", 1, Fault::Answer(400, json("something new"))),
        ("MalformedAnswer", 1, Fault::wrong_json()),
        ("MalformedAnswer", 1, Fault::Answer(200, "{}".to_owned())),
        ("", 3, Fault::Answer(200, format!("{{\"x\":\"{}\"}}", "x".repeat(2 << 20)))),
    ];
    for (code, tries, fault) in faults {
        let calls = proxy.calls("decrypt");
        proxy.set(fault.clone());
        let start = Instant::now();
        let e = kms.decrypt(&key, &wrapped, &context).expect_err("no answer");
        let (took, shown) = (start.elapsed(), format!("{fault:.60?}"));
        assert_eq!(e.verdict, Verdict::Unavailable, "{shown}: {e}");
        assert!(code.is_empty() || e.code == code, "{shown}: {e}");
        assert!(took < BOUND, "{shown}: {took:?}");
        assert_eq!(proxy.calls("decrypt") - calls, tries, "{shown}");
        proxy.set(Fault::None);
        kms.decrypt(&key, &wrapped, &context).unwrap_or_else(|e| panic!("{shown}: {e}"));
    }
}

/// A refusal is asked for once.
#[test]
fn a_definite_no_is_not_asked_again() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    root(&bao).create_as("alias/k", "").expect("made");
    let proxy = Proxy::before(bao.plain_port());
    let kms = VaultKms::new(&Place { address: proxy.url(), ..place(&bao, bao.root()) });
    let kms = kms.expect("a client");
    kms.disable(&KeyRef("k".to_owned())).expect("disabled");
    let refused = kms.generate(&KeyRef("k".to_owned()), &Context::volume(VolumeId::random()));
    assert_eq!(refused.expect_err("disabled").verdict, Verdict::Refused);
    assert_eq!(proxy.calls("datakey"), 1);
}

/// An answer with a key of another length, or with what is no text of Transit's, is not taken.
#[test]
fn an_answer_is_never_trusted() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    let proxy = Proxy::before(bao.plain_port());
    let kms = VaultKms::new(&Place { address: proxy.url(), ..place(&bao, bao.root()) });
    let kms = kms.expect("a client");
    let (key, context) = (KeyRef("k".to_owned()), Context::volume(VolumeId::random()));
    let plain = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let long = format!("vault:v1:{}", "A".repeat(8000));
    for (plain, wrapped) in [
        ("AAAA", "vault:v1:AAAA"),
        ("", "vault:v1:AAAA"),
        (plain, ""),
        (plain, "AAAA"),
        (plain, "vault:v1:\\u001b[2J"),
        (plain, &long),
    ] {
        let body = format!(r#"{{"data":{{"plaintext":"{plain}","ciphertext":"{wrapped}"}}}}"#);
        proxy.set(Fault::Answer(200, body.clone()));
        let e = kms.generate(&key, &context).expect_err("not taken");
        assert_eq!(
            (e.verdict, e.code.as_str()),
            (Verdict::Unavailable, "MalformedAnswer"),
            "{body:.90}"
        );
    }
}
