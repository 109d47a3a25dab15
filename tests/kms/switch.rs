//! The kill switch on a mount, whatever KMS has its key `kmsfs`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

#[cfg(any(feature = "pkcs11", feature = "vault"))]
use crate::support::{EKEYREVOKED, PATIENCE, errno};
use crate::support::{Mount, Store};

/// Writes a file, and opens it for reading.
pub fn written(mount: &Mount<'_>, name: &str, text: &[u8]) -> File {
    fs::write(mount.at(name), text).expect("written");
    File::open(mount.at(name)).expect("opened")
}

/// Reads a short file by its open descriptor.
pub fn reread(file: &File) -> std::io::Result<Vec<u8>> {
    let mut text = vec![0; 64];
    let n = file.read_at(&mut text, 0)?;
    text.truncate(n);
    Ok(text)
}

/// Disables the key from another process and enables it again: the mount locks and opens, and the
/// `text` of the file called `name` is there again, by the same descriptor.
#[cfg(any(feature = "pkcs11", feature = "vault"))]
pub fn locks_and_opens(store: &Store, mount: &Mount<'_>, (name, file): (&str, &File), text: &[u8]) {
    store.key(&["disable", "kmsfs"]);
    let took = mount.wait_state("revoked", PATIENCE);
    eprintln!("locked {took:?} after the disable");
    assert_eq!(errno(reread(file)), Some(EKEYREVOKED));
    assert_eq!(errno(fs::read(mount.at(name))), Some(EKEYREVOKED));
    assert!(mount.last_error().contains("DisabledException"), "{}", mount.last_error());
    assert!(store.key(&["describe", "kmsfs"]).contains("Disabled"));
    store.key(&["enable", "kmsfs"]);
    mount.wait_state("open", PATIENCE);
    assert_eq!(reread(file).expect("the same descriptor"), text);
}

/// When the last of these files was readable after a disable was asked for.
pub fn last_success(store: &Store, key: &str, files: &[File]) -> Duration {
    let disabled = Instant::now();
    let mut last = disabled.elapsed();
    std::thread::scope(|scope| {
        // It goes on to ask every mount of the machine where the key is in use: one may hang.
        scope.spawn(|| store.key(&["disable", key]));
        while files.iter().any(|file| reread(file).is_ok()) {
            last = disabled.elapsed();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    eprintln!("last success {last:?} after the disable");
    last
}

/// Nothing is readable later than the heartbeat and a second after the disable is asked for.
#[cfg(any(feature = "pkcs11", feature = "vault"))]
pub fn holds_the_bound(store: &Store) {
    let mount = store.mount(&["--heartbeat", "3s"]);
    let files = [written(&mount, "file", b"readable")];
    for _ in 0..3 {
        let last = last_success(store, "kmsfs", &files);
        assert!(last < Duration::from_secs(4), "{last:?}");
        store.key(&["enable", "kmsfs"]);
        mount.wait_state("open", PATIENCE);
    }
}
