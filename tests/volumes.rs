//! Golden volumes: one of each format version, kind of names and wrapping of data keys, which must
//! mount for ever. They were made by the release that brought it, and are never made again.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{fails, kmsfs, run, skipped};

/// A golden volume, unpacked, with its keystore.
struct Unpacked(tempfile::TempDir);

impl Unpacked {
    fn new(archive: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let volumes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/volumes");
        run(Command::new("tar")
            .args(["--xattrs", "--xattrs-include=user.*", "-xJf"])
            .arg(volumes.join(archive))
            .arg("-C")
            .arg(folder.path()));
        fs::create_dir(folder.path().join("mnt")).expect("made");
        Self(folder)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What is remembered of it is its own: each run unpacks it as it was.
    fn kmsfs(&self) -> Command {
        let mut command = kmsfs();
        command.env("XDG_STATE_HOME", self.at("state"));
        command
    }

    /// Mounts it, looks at everything in it, and unmounts it.
    fn mounts_with_its_content(&self) {
        let at = self.at("mnt");
        let mut mount = self.kmsfs();
        mount.arg("mount").arg(self.at("store")).arg(&at);
        run(mount.arg("--keystore").arg(self.at("keystore")));
        let looked = std::panic::catch_unwind(|| look(&at));
        run(self.kmsfs().arg("unmount").arg(&at));
        fails(self.kmsfs().arg("unmount").arg(&at), 8);
        if let Err(panic) = looked {
            std::panic::resume_unwind(panic);
        }
    }
}

fn mounts_with_its_content(archive: &str) {
    if !skipped("fuse") {
        Unpacked::new(archive).mounts_with_its_content();
    }
}

fn look(at: &Path) {
    let read = |name: &str| fs::read(at.join(name)).expect("readable");
    assert_eq!(read("short"), b"a short file\n");
    assert_eq!(read("empty"), b"");
    assert_eq!(read(&"n".repeat(180)), b"a long name\n");
    let pattern: Vec<u8> = (0..8000u32).map(|i| (i * 7 % 256) as u8).collect();
    assert_eq!(read("dir/three-records"), pattern);
    let sparse = read("sparse");
    assert_eq!(sparse.len(), (1 << 20) + 3);
    assert!(sparse[..1 << 20].iter().all(|b| *b == 0) && sparse.ends_with(b"end"));
    assert_eq!(read("dir/link"), b"a short file\n");
    assert_eq!(read("dir/hard"), b"a short file\n");
    let target = fs::read_link(at.join("long-link")).expect("a link");
    assert_eq!(target.to_str(), Some(format!("/{}", "t".repeat(3500)).as_str()));
    let attribute = |name: &str, attribute: &str| {
        let mut value = vec![0; 1000];
        let n = rustix::fs::getxattr(at.join(name), attribute, &mut value).expect("there");
        value.truncate(n);
        value
    };
    assert_eq!(attribute("short", "user.colour"), b"blue");
    assert_eq!(attribute("dir", "user.empty"), b"");
    assert_eq!(attribute("dir", "user.long"), [b'x'; 300]);
    let mut names: Vec<_> = fs::read_dir(at)
        .expect("listed")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names.len(), 6, "{names:?}");
    use std::os::unix::fs::FileTypeExt;
    let fifo = fs::symlink_metadata(at.join("dir/deeper/fifo")).expect("there");
    assert!(fifo.file_type().is_fifo());
}

#[test]
fn version_2_with_encrypted_names() {
    mounts_with_its_content("v2-encrypted.tar.xz");
}

#[test]
fn version_2_with_plain_names() {
    mounts_with_its_content("v2-plain.tar.xz");
}

/// Made by two mounts, so that its files lie under two branch keys.
#[test]
fn version_2_with_branch_keys() {
    mounts_with_its_content("v2-branch.tar.xz");
}

/// By its keystore, and when that is gone by its identity.
#[test]
fn version_2_with_a_recovery() {
    if skipped("fuse") {
        return;
    }
    let volume = Unpacked::new("v2-recovery.tar.xz");
    volume.mounts_with_its_content();
    fs::remove_dir_all(volume.at("keystore")).expect("removed");
    let mut recover = volume.kmsfs();
    recover.arg("recover").arg(volume.at("store")).arg("--identity").arg(volume.at("identity"));
    run(recover.arg("--keystore").arg(volume.at("keystore")).arg("--no-passphrase"));
    volume.mounts_with_its_content();
}
