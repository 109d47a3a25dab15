//! The provider alone, against the suite, and each answer that has a class.

use std::io::{Read, Write};

use data_encoding::BASE64URL_NOPAD;
use kmsfs::ids::VolumeId;
use kmsfs::kms::vault::{Auth, ClientCert, Place, PlainHttp, Token, VaultKms};
use kmsfs::kms::{CALL, Context, KeyAdmin, KeyRef, KeyService, KeyState, KmsError, Verdict};
use kmsfs::secret::Key;

use crate::conformance::{self, Gap};
use crate::support::bao::Bao;
use crate::support::proxy::{Fault, Proxy};
use crate::support::skipped;

const OPENBAO: &[Gap] = &[Gap::NoReEncrypt, Gap::KeyNotNamed, Gap::NoAliases, Gap::NoDeletion];

pub(super) fn place(bao: &Bao, token: &str) -> Place {
    Place {
        address: bao.url(),
        namespace: String::new(),
        mount: "transit".to_owned(),
        plain_http: PlainHttp::Loopback,
        ca_file: Some(bao.at("ca.pem")),
        client_cert: None,
        time_limit: CALL,
        auth: Auth::Token(Token::new(token.as_bytes())),
    }
}

pub(super) fn root(bao: &Bao) -> VaultKms {
    VaultKms::new(&place(bao, bao.root())).expect("a client")
}

fn key(name: &str) -> KeyRef {
    KeyRef(name.to_owned())
}

fn class<T>(answer: Result<T, KmsError>) -> (Verdict, String) {
    let e = answer.err().expect("this call must fail");
    (e.verdict, e.code)
}

#[test]
fn openbao_conforms() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    let kms = root(&bao);
    conformance::run(&kms.sibling(), &kms, OPENBAO);
}

#[test]
fn keys_are_named_by_their_makers_and_have_no_aliases() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    let kms = root(&bao);
    assert_eq!(kms.list().expect("an empty list"), []);
    let made = kms.create_as("alias/k-1", "").expect("made");
    assert_eq!((made.id.as_str(), made.arn.0.as_str()), ("k-1", "vault:transit:key/k-1"));
    assert_eq!((made.state, made.versions), (KeyState::Enabled, Some(1)));
    assert!(made.created > 1_700_000_000, "{}", made.created);
    let (verdict, code) = class(kms.create_as("alias/k-1", ""));
    assert_eq!((verdict, code.as_str()), (Verdict::Invalid, "AlreadyExistsException"));
    let other = kms.create("").expect("made");
    let listed: Vec<_> = kms.list().expect("listed").into_iter().map(|k| k.id).collect();
    assert!(listed.len() == 2 && listed.contains(&other.id) && listed.contains(&made.id));
    let context = Context::volume(VolumeId::random());
    let generated = kms.generate(&key("alias/k-1"), &context).expect("by its other name");
    assert_eq!(generated.master, made.arn);
    for refused in [kms.set_alias("alias/x", &key("k-1")), kms.remove_alias("alias/k-1")] {
        assert_eq!(class(refused).1, "UnsupportedOperationException");
    }
    assert_eq!(class(kms.schedule_deletion(&key("k-1"), 30)).0, Verdict::Invalid);
}

/// A service account's token, not signed by anybody: whether it is good the server asks of the
/// Kubernetes API.
fn service_account() -> String {
    let part = |json: serde_json::Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
    let claims = part(serde_json::json!({
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:default:mount",
        "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/service-account.name": "mount",
        "kubernetes.io/serviceaccount/service-account.uid": "1",
    }));
    format!("{}.{claims}.AAAA", part(serde_json::json!({ "alg": "RS256", "typ": "JWT" })))
}

/// What the Kubernetes API says of it (TokenReview), until the test is over.
fn token_reviews() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    let port = listener.local_addr().expect("it is bound").port();
    let answer = serde_json::json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "status": { "authenticated": true, "user": {
            "username": "system:serviceaccount:default:mount", "uid": "1",
            "groups": ["system:serviceaccounts"],
        } },
    })
    .to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut request = [0; 8192];
            let _ = (&stream).read(&mut request);
            let length = answer.len();
            let head = format!(
                "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = (&stream).write_all((head + &answer).as_bytes());
        }
    });
    port
}

/// The server's own auth method, with no cluster but for what its API says of the account.
#[test]
fn a_service_account_of_kubernetes_logs_in() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    root(&bao).create_as("alias/k", "").expect("made");
    bao.allow("mount", "k");
    bao.cli(&["auth", "enable", "-path=cluster", "kubernetes"]);
    let host = format!("kubernetes_host=http://127.0.0.1:{}", token_reviews());
    let config = ["write", "auth/cluster/config", &host, "disable_local_ca_jwt=true"];
    let ca = format!("kubernetes_ca_cert=@{}", bao.at("ca.pem").display());
    let reviewer = format!("token_reviewer_jwt={}", service_account());
    bao.cli(&[&config[..], &[&ca, &reviewer]].concat());
    let names = ["bound_service_account_names=mount", "bound_service_account_namespaces=default"];
    let role = ["write", "auth/cluster/role/mount", "token_policies=mount", "token_ttl=60s"];
    bao.cli(&[&role[..], &names[..]].concat());
    let jwt_file = bao.at("jwt");
    std::fs::write(&jwt_file, service_account()).expect("written");
    let context = Context::volume(VolumeId::random());
    let login = |role: &str| {
        let (mount, role) = ("cluster".to_owned(), role.to_owned());
        let auth = Auth::Kubernetes { mount, role, jwt_file: jwt_file.clone() };
        let kms = VaultKms::new(&Place { auth, ..place(&bao, "") }).expect("a client");
        kms.generate(&key("k"), &context)
    };
    login("mount").expect("logged in");
    assert_eq!(class(login("another")), (Verdict::Credentials, "VaultLogin".to_owned()));
}

/// Who cuts access off need not be able to do anything else.
#[test]
fn a_right_to_disable_is_enough_to_disable() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    let kms = root(&bao);
    kms.create_as("alias/k", "").expect("made");
    let rule = "path \"transit/keys/k/soft-delete\" { capabilities = [\"delete\"] }";
    std::fs::write(bao.at("glass.hcl"), rule).expect("written");
    bao.cli(&["policy", "write", "glass", bao.at("glass.hcl").to_str().expect("UTF-8")]);
    let glass = VaultKms::new(&place(&bao, &bao.token("glass", "1h"))).expect("a client");
    glass.disable(&key("k")).expect("disabled");
    assert_eq!(kms.describe(&key("k")).expect("described").state, KeyState::Disabled);
    assert_eq!(class(glass.enable(&key("k"))).1, "AccessDeniedException");
    assert_eq!(class(kms.disable(&key("absent"))).1, "NotFoundException");
}

/// What each refusal of the server's means, in the server's own words.
#[test]
fn each_answer_has_its_class() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    let kms = root(&bao);
    let context = Context::volume(VolumeId::random());
    kms.create_as("alias/k", "").expect("made");
    let made = kms.generate(&key("k"), &context).expect("made");
    let all = |kms: &VaultKms, name: &str| {
        [
            class(kms.generate(&key(name), &context)),
            class(kms.decrypt(&key(name), &made.wrapped, &context)),
            class(kms.encrypt(&key(name), &Key::random(), &context)),
        ]
    };
    let refused = |code: &str| [(); 3].map(|()| (Verdict::Refused, code.to_owned()));
    assert_eq!(all(&kms, "absent"), refused("NotFoundException"));
    assert_eq!(class(kms.describe(&key("absent"))).1, "NotFoundException", "encrypt made none");
    for token in ["s.nobody", &bao.token("default", "1h")] {
        let stranger = VaultKms::new(&place(&bao, token)).expect("a client");
        assert_eq!(all(&stranger, "k"), refused("AccessDeniedException"));
    }
    for (namespace, mount) in [("", "nothing"), ("nobody", "transit")] {
        let (namespace, mount) = (namespace.to_owned(), mount.to_owned());
        let elsewhere = Place { namespace, mount, ..place(&bao, bao.root()) };
        let elsewhere = VaultKms::new(&elsewhere).expect("a client");
        assert_eq!(all(&elsewhere, "k"), refused("NoTransit"));
    }
    bao.cli(&["write", "-f", "transit/keys/k/rotate"]);
    bao.cli(&["write", "transit/keys/k/config", "min_decryption_version=2"]);
    let old = class(kms.decrypt(&key("k"), &made.wrapped, &context));
    assert_eq!(old, (Verdict::Refused, "DisabledException".to_owned()));
    bao.cli(&["write", "transit/keys/k/config", "min_decryption_version=1"]);
    kms.decrypt(&key("k"), &made.wrapped, &context).expect("let again");
    for (name, kind) in [("derived", "derived=true"), ("rsa", "type=rsa-2048")] {
        bao.cli(&["write", "-f", &format!("transit/keys/{name}"), kind]);
        let (verdict, code) = class(kms.generate(&key(name), &context));
        assert_eq!((verdict, code.as_str()), (Verdict::Invalid, "InvalidKeyUsageException"));
    }
    let too_new =
        kmsfs::kms::Wrapped(b"vault:v9:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_vec());
    let too_new = class(kms.decrypt(&key("k"), &too_new, &context));
    assert_eq!(too_new, (Verdict::ThisKey, "InvalidCiphertextException".to_owned()));
    bao.seal();
    let sealed = [(); 3].map(|()| (Verdict::Unavailable, "Sealed".to_owned()));
    assert_eq!(all(&kms, "k"), sealed);
}

/// A server whose certificate is of nobody known, or none at all.
#[test]
fn a_server_is_asked_only_by_tls_and_under_its_own_authority() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    let context = Context::volume(VolumeId::random());
    let unknown = Place { ca_file: None, ..place(&bao, bao.root()) };
    let e = VaultKms::new(&unknown).expect("a client").generate(&key("k"), &context);
    let e = e.expect_err("another authority's");
    assert!(e.verdict == Verdict::Unavailable && e.message.contains("--vault-cacert"), "{e}");
    let no_key = ClientCert { cert: bao.at("client.pem"), key: bao.at("server.key") };
    let mismatched = Place { client_cert: Some(no_key), ..place(&bao, bao.root()) };
    assert_eq!(VaultKms::new(&mismatched).err().map(|e| e.verdict), Some(Verdict::Credentials));
}

/// As HashiCorp's Vault answers: it binds no data key that it makes, and says that it did not look
/// at the associated data. The key is made here then, and bound.
#[test]
fn a_data_key_that_the_server_does_not_bind_is_not_taken() {
    if skipped("openbao") {
        return;
    }
    let bao = Bao::start();
    root(&bao).create_as("alias/k", "").expect("made");
    let proxy = Proxy::before(bao.plain_port());
    let kms = VaultKms::new(&Place { address: proxy.url(), ..place(&bao, bao.root()) });
    let kms = kms.expect("a client");
    let context = Context::volume(VolumeId::random());
    let unbound = bao.cli(&["write", "-f", "-format=json", "transit/datakey/plaintext/k"]);
    let mut unbound: serde_json::Value = serde_json::from_str(&unbound).expect("JSON");
    unbound["warnings"] =
        serde_json::json!(["Endpoint ignored these unrecognized parameters: [associated_data]"]);
    proxy.set_for("datakey", Fault::Answer(200, unbound.to_string()));
    let made = kms.generate(&key("k"), &context).expect("made here");
    let opened = kms.decrypt(&key("k"), &made.wrapped, &context).expect("by the server");
    assert_eq!(opened.key.expose(), made.key.expose());
    let other = Context::volume(VolumeId::random());
    assert_eq!(class(kms.decrypt(&key("k"), &made.wrapped, &other)).0, Verdict::ThisKey);
    assert_ne!(unbound["data"]["ciphertext"].as_str(), str::from_utf8(&made.wrapped.0).ok());
    assert_eq!((proxy.calls("datakey"), proxy.calls("encrypt")), (1, 1));
    proxy.set_for("encrypt", Fault::Answer(200, unbound.to_string()));
    assert_eq!(class(kms.generate(&key("k"), &context)).0, Verdict::Invalid, "nor here");
}
