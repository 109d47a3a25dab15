//! The kill switch on a mount, whatever KMS has its key `kmsfs`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::support::{EKEYREVOKED, Mount, PATIENCE, Store, errno};

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

/// Nothing is readable later than the heartbeat and a second after the disable is asked for.
pub fn holds_the_bound(store: &Store) {
    let mount = store.mount(&["--heartbeat", "3s"]);
    let file = written(&mount, "file", b"readable");
    for _ in 0..3 {
        let disabled = Instant::now();
        store.key(&["disable", "kmsfs"]);
        let mut last = disabled.elapsed();
        while reread(&file).is_ok() {
            last = disabled.elapsed();
            std::thread::sleep(Duration::from_millis(2));
        }
        eprintln!("last success {last:?} after the disable");
        assert!(last < Duration::from_secs(4), "{last:?}");
        store.key(&["enable", "kmsfs"]);
        mount.wait_state("open", PATIENCE);
    }
}
