//! What every request pays for: records, names, and the way to a cached key.
//!
//! `cargo bench --locked`

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kmsfs::content::{ContentCipher, capacity};
use kmsfs::disk::sim::Sim;
use kmsfs::ids::{DirId, FileId, PageId, VolumeId};
use kmsfs::keys::{self, KeyRequest, Keyring, Limits, Purpose};
use kmsfs::kms::local::{LocalKms, Sealing};
use kmsfs::kms::{KeyAdmin, KeyRef};
use kmsfs::names::{self, DiskName, VolumeKeys};
use kmsfs::secret::{Key, random_nonce};
use kmsfs::store::{DataKeys, Names, Provider, Settings, Store};

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("record");
    let cipher =
        ContentCipher::new(&Key::random(), VolumeId::random(), FileId::new(PageId::random(), 0));
    let room = usize::try_from(capacity(1)).expect("a page at most");
    let (plain, mut page, mut out) = (vec![7; room], vec![0; 4096], vec![0; room]);
    group.throughput(Throughput::Bytes(room as u64));
    group.bench_function("seal", |b| {
        b.iter(|| cipher.seal(1, &plain, black_box(&mut page), random_nonce()));
    });
    group.bench_function("open", |b| {
        b.iter(|| cipher.open(1, black_box(&page), &mut out));
    });
    // The same copying without the cipher: what is left if encryption cost nothing.
    group.bench_function("copy", |b| {
        b.iter(|| black_box(&mut page)[..room].copy_from_slice(black_box(&plain)));
    });
    group.finish();
    c.bench_function("a new file's cipher state", |b| {
        let (key, volume) = (Key::random(), VolumeId::random());
        let file = FileId::new(PageId::random(), 0);
        b.iter(|| ContentCipher::new(black_box(&key), volume, file));
    });
}

fn file_names(c: &mut Criterion) {
    let keys = VolumeKeys::derive(&Key::random(), VolumeId::random());
    let dir = DirId([1; 16]);
    for (what, name) in [("name", "report-2026.txt".to_owned()), ("long name", "x".repeat(240))] {
        c.bench_function(&format!("{what}: encrypt"), |b| {
            b.iter(|| names::encrypt(&keys, dir, black_box(name.as_bytes())));
        });
        c.bench_function(&format!("{what}: decrypt"), |b| {
            match names::encrypt(&keys, dir, name.as_bytes()) {
                DiskName::Short(entry) => {
                    let entry = entry.as_encoded_bytes();
                    b.iter(|| names::decrypt(&keys, dir, black_box(entry)));
                }
                DiskName::Long { entry, text, .. } => {
                    let (entry, text) = (entry.as_encoded_bytes(), text.as_encoded_bytes());
                    b.iter(|| names::decrypt_long(&keys, dir, entry, black_box(text)));
                }
            }
        });
    }
}

fn a_keyring() -> Keyring {
    let kms = LocalKms::create_in(Sim::new().root(), &Sealing::Clear).expect("made");
    let master = kms.create("").expect("made");
    let store = Arc::new(Store::init(Sim::new().root()).expect("made"));
    let settings = Settings::new(VolumeId::random(), Names::Encrypted, DataKeys::PerFile);
    let provider = Provider::Local { keystore: "/keystore".to_owned() };
    keys::create(&store, &kms, provider, KeyRef(master.id), settings).expect("made");
    let (volume, names) = keys::open(&store, &kms, &keys::Trust::Authenticated).expect("just made");
    let limits = Limits {
        store_use: keys::StoreUse::Writes { removed_keys: Duration::ZERO },
        cache: NonZeroUsize::new(4096).expect("not zero"),
        ttl: Duration::from_secs(900),
        rate: None,
        patience: Duration::MAX,
    };
    Keyring::new(volume, names, store, Arc::new(kms), limits)
}

fn cache(c: &mut Criterion) {
    let keyring = a_keyring();
    let files: Vec<FileId> = (0..1000)
        .map(|_| {
            loop {
                match keyring.fresh() {
                    Ok(cipher) => return cipher.file(),
                    Err(_) => keyring.supply(KeyRequest::Fresh).expect("the keystore answers"),
                }
            }
        })
        .collect();
    let mut next = files.iter().cycle();
    c.bench_function("cached key, through the gate", |b| {
        b.iter(|| {
            let pass = keyring.enter(Purpose::Use).expect("open");
            let cipher = keyring.cipher(*next.next().expect("a cycle"));
            drop(pass);
            cipher
        });
    });
    let mut next = files.iter().cycle();
    c.bench_function("key fetched from the embedded keystore", |b| {
        b.iter(|| {
            let file = *next.next().expect("a cycle");
            keyring.evict(file);
            keyring.supply(KeyRequest::File(file)).expect("the keystore answers");
        });
    });
}

criterion_group!(benches, records, file_names, cache);
criterion_main!(benches);
