//! Multi-Region keys: a replica opens the volume where the first region is lost, and on an
//! operator's word alone.

use std::fs;
use std::path::PathBuf;

use crate::support::server::{REGION, Rules, Server, credentials, key, new_key};
use crate::support::{
    EKEYREJECTED, EKEYREVOKED, PATIENCE, Store, errno, fails, files, kmsfs, run, skipped,
};

/// Where the replica is; the key itself is in the region of every test.
const ELSEWHERE: &str = "eu-west-1";
const THERE: [&str; 2] = ["--replica-region", ELSEWHERE];

/// A key and its replica, by their ARNs.
struct Pair {
    first: String,
    replica: String,
}

impl Pair {
    fn new(server: &Server) -> Self {
        let told = server.python(&format!(
            "made = kms.create_key(MultiRegion=True)['KeyMetadata']
there = kms.replicate_key(KeyId=made['KeyId'], ReplicaRegion='{ELSEWHERE}')
print(made['Arn'], there['ReplicaKeyMetadata']['Arn'])"
        ));
        let (first, replica) = told.split_once(' ').expect("two words");
        Self { first: first.to_owned(), replica: replica.to_owned() }
    }

    fn id(&self) -> &str {
        self.first.rsplit('/').next().expect("an id")
    }
}

fn store_under(server: &Server, key: &str) -> Store {
    Store::aws(&server.url(), &credentials("test", "test"), &["--master-key", key])
}

/// A store under a key and its replica, with a file.
fn filled(server: &Server, text: &str) -> (Pair, Store) {
    let pair = Pair::new(server);
    let store = store_under(server, &pair.first);
    let mount = store.mount(&[]);
    fs::write(mount.at("file"), text).expect("written");
    mount.unmount();
    (pair, store)
}

/// The two do not share their code, and each knows replicas.
fn servers() -> Vec<Server> {
    let mut all = Vec::new();
    if !skipped("ministack") {
        all.push(Server::ministack(Rules::None));
    }
    if !skipped("localstack") {
        all.push(Server::localstack());
    }
    all
}

#[test]
fn a_replica_opens_a_volume_whose_region_is_lost_and_is_a_switch_of_its_own() {
    if skipped("fuse") {
        return;
    }
    for server in servers() {
        let (pair, store) = filled(&server, "from the first region");
        let volume_file = || fs::read(store.path().join("volume.json")).expect("there");
        let before = volume_file();

        // From here on the first region's key answers nothing.
        run(key(&server).args(["disable", &pair.first]));
        let mounting = |options: &[&str]| {
            let mut command = store.kmsfs();
            command.arg("mount").arg(store.path()).arg(store.mountpoint()).args(options);
            command
        };
        fails(&mut mounting(&[]), 5);
        let mount = store.mount(&[&THERE[..], &["--heartbeat", "1s"]].concat());
        assert_eq!(mount.report()["replica_region"], ELSEWHERE);
        assert_eq!(mount.report()["master_key"], pair.first);
        let read = || fs::read(mount.at("file"));
        assert_eq!(read().expect("readable"), b"from the first region");
        fs::write(mount.at("new"), b"from the second").expect("written");

        run(key(&server).args(["disable", &pair.replica]));
        mount.wait_state("revoked", PATIENCE);
        assert_eq!(errno(read()), Some(EKEYREVOKED));
        assert!(mount.last_error().contains(&pair.replica), "{}", mount.last_error());
        let used = run(key(&server).args(["usage", &pair.replica]));
        assert!(used.contains(store.path().to_str().expect("UTF-8")), "{used}");
        run(key(&server).args(["enable", &pair.replica]));
        mount.wait_state("open", PATIENCE);
        assert_eq!(read().expect("readable"), b"from the first region");
        mount.unmount();

        assert_eq!(volume_file(), before, "the store names the key that it was made under");
        for page in files(&store.path().join("keys")) {
            let lines = fs::read_to_string(page).expect("a page is text");
            assert!(!lines.contains(ELSEWHERE), "{lines}");
        }
        run(key(&server).args(["disable", &pair.replica]));
        run(key(&server).args(["enable", &pair.first]));
        let mount = store.mount(&[]);
        assert_eq!(fs::read(mount.at("new")).expect("readable"), b"from the second");
    }
}

/// Nothing is mounted, and nothing goes on to need the first region after a rewrap.
#[test]
fn a_store_is_read_by_its_replica_and_moves_to_it() {
    if skipped("fuse") {
        return;
    }
    for server in servers() {
        let (pair, store) = filled(&server, "content");
        run(key(&server).args(["disable", &pair.first]));
        let verb = |name: &str, there: &[&str], args: &[&str]| {
            let mut command = store.kmsfs();
            command.arg(name).args(there).arg(store.path()).args(args);
            command
        };
        fails(&mut verb("cat", &[], &["file"]), 5);
        assert_eq!(run(&mut verb("cat", &THERE, &["file"])), "content");
        let copy = store.outside("copy");
        run(&mut verb("export", &THERE, &[copy.to_str().expect("UTF-8")]));
        assert_eq!(fs::read(copy.join("file")).expect("copied"), b"content");
        run(&mut verb("fsck", &THERE, &[]));
        let tested = run(store.kmsfs().args(["policy", "test"]).arg(store.path()).args(THERE));
        assert!(tested.contains("DescribeKey      yes"), "{tested}");

        let said = fails(&mut verb("rewrap", &THERE, &["--to", &pair.first]), 2);
        assert!(said.contains("another region") && said.contains("--to arn:"), "{said}");
        run(&mut verb("rewrap", &THERE, &["--to", &pair.replica]));
        let mount = store.mount(&["--master-key", &pair.replica]);
        assert_eq!(fs::read(mount.at("file")).expect("readable"), b"content");
    }
}

/// An alias is of its region alone; the key that a mount is held to is named as the store does.
#[test]
fn aliases_and_pinned_keys_are_those_of_the_store() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let pair = Pair::new(&server);
    run(key(&server).args(["alias", "set", "kmsfs", &pair.first]));
    let store = store_under(&server, "alias/kmsfs");
    let mounting = |options: &[&str]| {
        let mut command = store.kmsfs();
        command.arg("mount").args(THERE).args(options);
        command.arg(store.path()).arg(store.mountpoint());
        command
    };
    let said = fails(&mut mounting(&[]), 5);
    assert!(said.contains("NotFoundException"), "{said}");
    run(mounting(&["--read-only"]).arg("--master-key").arg(&pair.first));
    store.mounted().unmount();

    run(key(&server).args(["alias", "set", "kmsfs", &pair.replica]));
    fails(mounting(&[]).arg("--master-key").arg(&pair.replica), 5);
    let other = new_key(&server, "other");
    fails(mounting(&[]).arg("--master-key").arg(&other), 5);
    for pinned in [pair.first.as_str(), pair.id(), "alias/kmsfs"] {
        run(mounting(&[]).arg("--master-key").arg(pinned));
        let mount = store.mounted();
        fs::write(mount.at("file"), pinned).expect("written");
        mount.unmount();
    }

    // There the alias leads to a key that has no part in this volume.
    let single = run(key(&server).args(["--region", ELSEWHERE, "create"]));
    run(key(&server).args(["--region", ELSEWHERE, "alias", "set", "kmsfs", single.trim()]));
    let said = fails(&mut mounting(&[]), 5);
    assert!(said.contains("new data keys would come under"), "{said}");
}

#[test]
fn a_key_of_one_region_has_no_replica() {
    if skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let id = new_key(&server, "kmsfs");
    let cat = |store: &Store, region: &str| {
        let mut command = store.kmsfs();
        command.args(["cat", "--replica-region", region]).arg(store.path()).arg("file");
        command
    };
    for store in [store_under(&server, &id), Store::new(&[])] {
        let said = fails(&mut cat(&store, ELSEWHERE), 2);
        let told = ["no multi-Region key", "leave --replica-region out", "kmsfs rewrap"];
        assert!(told.iter().all(|told| said.contains(told)), "{said}");
        fails(&mut cat(&store, "https://elsewhere"), 2);
    }
    // What administers keys names each by its own ARN.
    fails(kmsfs().args(["key", "list"]).args(THERE), 2);
}

/// Replaces one region by the other in files of the store, as whoever can write it does.
fn rename_region(paths: &[PathBuf], from: &str, to: &str) {
    for path in paths {
        let text = fs::read_to_string(path).expect("text");
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).expect("written");
    }
}

/// A mount that asked a replica on the store's word would go on when the key is disabled.
#[test]
fn no_store_has_a_mount_ask_a_replica() {
    if skipped("fuse") || skipped("ministack") {
        return;
    }
    let server = Server::ministack(Rules::None);
    let (pair, store) = filled(&server, "content");
    let mounting = |options: &[&str]| {
        let mut command = store.kmsfs();
        command.arg("mount").args(options).arg(store.path()).arg(store.mountpoint());
        command
    };
    let volume_files = ["volume.json", "volume.json.bak"].map(|name| store.path().join(name));
    rename_region(&volume_files, REGION, ELSEWHERE);
    assert!(fails(&mut mounting(&[]), 3).contains("nothing proves that"));
    fails(&mut mounting(&["--master-key", &pair.first]), 5);
    rename_region(&volume_files, ELSEWHERE, REGION);

    rename_region(&files(&store.path().join("keys")), REGION, ELSEWHERE);
    for options in [&[][..], &THERE] {
        let mount = store.mount(options);
        assert_eq!(errno(fs::read(mount.at("file"))), Some(EKEYREJECTED), "{options:?}");
        mount.unmount();
    }
}
