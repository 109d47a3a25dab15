//! Every provider, against the suite.

use kmsfs::kms::local::{LocalKms, Sealing};

use crate::conformance;

#[test]
fn the_embedded_keystore_conforms() {
    let temp = tempfile::tempdir().expect("a folder");
    let path = temp.path().join("a/keystore");
    let kms = LocalKms::create(&path, &Sealing::Clear).expect("created");
    conformance::run(&kms, &kms, &[]);
    // And with one process that uses keys while another administers them.
    conformance::run(&LocalKms::open(&path, None).expect("opened"), &kms, &[]);
    let held = kmsfs::disk::open_dir(temp.path()).expect("opened");
    std::fs::create_dir(temp.path().join("held")).expect("made");
    let dir = held.open_dir("held".as_ref()).expect("opened");
    let made = LocalKms::create_in(dir.clone(), &Sealing::Clear).expect("created");
    conformance::run(&LocalKms::open_in(dir, None).expect("opened"), &made, &[]);
}

#[cfg(feature = "aws")]
mod aws {
    use std::process::Command;

    use kmsfs::kms::aws::{AwsKms, Place};

    use crate::conformance::{self, Gap};
    use crate::support::server::{REGION, Rules, Server, credentials};
    use crate::support::{run, skipped};

    const MINISTACK: &[Gap] = &[
        Gap::Unauthenticated,
        Gap::DemandedKeyIgnored,
        Gap::NoReEncrypt,
        Gap::NoRotation,
        Gap::LaxStates,
        Gap::LaxNames,
    ];
    const LOCALSTACK: &[Gap] = &[Gap::DamagedIsNotFound, Gap::MovedAliasIsNotFound];

    /// Runs the suite in a child: the SDK takes credentials from the environment, which a
    /// process with threads must not change.
    fn conforms(server: &Server, name: &str) {
        let this = std::env::current_exe().expect("a test binary");
        let said = run(Command::new(this)
            .args(["--exact", "providers::aws::child", "--ignored", "--nocapture"])
            .env("KMSFS_TEST_SERVER", name)
            .env("KMSFS_TEST_ENDPOINT", server.url())
            .envs(credentials("test", "test")));
        assert!(said.contains("1 passed"), "{said}");
    }

    #[test]
    fn aws_conforms_on_ministack() {
        if !skipped("ministack") {
            conforms(&Server::ministack(Rules::None), "ministack");
        }
    }

    #[test]
    fn aws_conforms_on_localstack() {
        if !skipped("localstack") {
            conforms(&Server::localstack(), "localstack");
        }
    }

    #[test]
    #[ignore = "run by the two above, with credentials in its environment"]
    fn child() {
        let endpoint = std::env::var("KMSFS_TEST_ENDPOINT").expect("set by the parent");
        let server = std::env::var("KMSFS_TEST_SERVER").expect("set by the parent");
        let place =
            Place { region: Some(REGION.to_owned()), endpoint: Some(endpoint), ..Place::default() };
        let kms = AwsKms::new(&place).expect("a client");
        let gaps = if server == "ministack" { MINISTACK } else { LOCALSTACK };
        conformance::run(&kms.sibling(), &kms, gaps);
    }
}
