//! Which stores of this machine a master key opens, and when its KMS saw it used last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::config;
use crate::clock::date;
use crate::console::failure::Failure;
use crate::console::options::Output;
use crate::console::printing::{say, tell};
use crate::control::{self, Target};
use crate::kms::{KeyAdmin, KeyArn, KeyInfo, KeyRef, LastUse};
use crate::store::{Census, Store, StoreError};

/// What one store has under a master key.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    /// New data keys come under it, and the volume does not open without it.
    is_current: bool,
    /// Data keys of files, those under its branch keys among them; `None` while they are counted.
    data_keys: Option<u64>,
}

/// A store, and where it is mounted.
struct Found {
    store: PathBuf,
    mountpoint: Option<PathBuf>,
    of_key: Use,
}

/// Prints where a key is in use: of the stores that are mounted, that `kmsfs.toml` names, and these.
///
/// # Errors
/// Of the KMS, where it does not know the key. A store that cannot be read is told, and left out.
pub(super) fn run(
    admin: &dyn KeyAdmin,
    key: &str,
    stores: &[PathBuf],
    output: Output,
) -> Result<(), Failure> {
    let key = admin.describe(&KeyRef(key.to_owned()))?;
    let last_use = last_use(admin, &key);
    let found = find(&key, stores);
    match output {
        Output::Json => say!("{}", json(&key, &last_use, &found)),
        Output::Text => {
            lines(&key, &last_use, &found, "known").iter().for_each(|line| say!("{line}"))
        }
    }
    Ok(())
}

/// Tells where a key is in use, beside what else is done to it: as the mounts of this machine know
/// it. No store is looked at here, for one may lie on a disk that hangs, and have whoever looks at it
/// hang for as long.
pub(super) fn tell(admin: &dyn KeyAdmin, key: &KeyInfo) {
    let last_use = last_use(admin, key);
    let reported = control::side_by_side(&mounts(), |mount| reported(mount, key));
    let found: Vec<_> = reported.into_iter().flatten().collect();
    lines(key, &last_use, &found, "mounted").iter().for_each(|line| tell!("{line}"));
    tell!("stores that are not mounted: kmsfs key usage {} STORE…", key.id);
}

fn last_use(admin: &dyn KeyAdmin, key: &KeyInfo) -> LastUse {
    admin.last_use(&KeyRef(key.id.clone())).unwrap_or_else(|e| {
        tell!("kmsfs: when the key was last used cannot be had: {e}");
        LastUse::Unknown
    })
}

/// The mounts of this machine whose word counts.
fn mounts() -> Vec<Target> {
    let mut all = control::all().unwrap_or_else(|e| {
        tell!("kmsfs: what is mounted cannot be had: {e}");
        Vec::new()
    });
    all.retain(Target::is_believed);
    all
}

/// The stores under the key: those that are mounted, and those that are known of otherwise.
fn find(key: &KeyInfo, named: &[PathBuf]) -> Vec<Found> {
    let mounts = mounts();
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let of_file = config::volumes().into_iter().map(|volume| PathBuf::from(volume.store));
    let mut here: BTreeMap<_, _> =
        of_file.chain(named.iter().cloned()).map(|store| (real(&store), None)).collect();
    let mut found = Vec::new();
    for mount in &mounts {
        match mount {
            Target::Here(_) => {
                here.insert(real(mount.store()), Some(mount.mountpoint().to_owned()));
            }
            Target::Elsewhere { .. } => found.extend(reported(mount, key)),
        }
    }
    for (store, mountpoint) in here {
        match look(&store, key) {
            Ok(Some(of_key)) => found.push(Found { store, mountpoint, of_key }),
            Ok(None) => {}
            // Unmounted a moment ago, and gone.
            Err(_) if mountpoint.is_some() && !store.exists() => {}
            Err(e) => tell!("kmsfs: {}: left out: {e}", store.display()),
        }
    }
    found
}

/// What a store has under the key, if anything.
fn look(store: &Path, key: &KeyInfo) -> Result<Option<Use>, StoreError> {
    let store = Store::open_path(store)?;
    let is_current = key.arn.is_related_to(&store.read_volume()?.wrap.source.master);
    let counted = Census::default().take(&store);
    let counts = counted.map_err(|e| StoreError::Io("the sidecars", e))?;
    let is_under = |master: Option<&KeyArn>| master.is_some_and(|m| key.arn.is_related_to(m));
    let by_master = counts.by_master().into_iter();
    let data_keys = by_master.filter(|(master, _)| is_under(*master)).map(|(_, lines)| lines).sum();
    let branches = counts.branches.values().filter(|b| is_under(b.master.as_ref()));
    let is_used = is_current || data_keys > 0 || branches.count() > 0;
    Ok(is_used.then_some(Use { is_current, data_keys: Some(data_keys) }))
}

/// As [`look`], of what the mount itself says.
fn reported(mount: &Target, key: &KeyInfo) -> Option<Found> {
    let report = mount.report().ok()??;
    let is_under = |master: &String| key.arn.is_related_to(&KeyArn(master.clone()));
    let is_current = [&report.key_target, &report.master_key].into_iter().any(is_under);
    let data_keys =
        report.lines.map(|lines| lines.iter().filter(|l| is_under(&l.key)).map(|l| l.lines).sum());
    (is_current || data_keys > Some(0)).then(|| Found {
        store: mount.store().to_owned(),
        mountpoint: Some(mount.mountpoint().to_owned()),
        of_key: Use { is_current, data_keys },
    })
}

/// `among` says which stores were asked.
fn lines(key: &KeyInfo, last_use: &LastUse, found: &[Found], among: &str) -> Vec<String> {
    let mut lines = vec![format!("key        {}", key.arn)];
    match last_use {
        LastUse::At { when, operation, event } => {
            let event = event.as_ref().map(|id| format!(", CloudTrail event {id}"));
            let event = event.unwrap_or_default();
            lines.push(format!("last used  {} for {operation}{event}", date(*when)));
        }
        LastUse::NotSince(when) => lines.push(format!("last used  not since {}", date(*when))),
        LastUse::Unknown => {}
    }
    if found.is_empty() {
        lines.push(format!("stores     none of those {among} on this machine"));
    }
    for (n, place) in found.iter().enumerate() {
        let label = if n == 0 { "stores" } else { "" };
        let at = place
            .mountpoint
            .as_ref()
            .map_or("not mounted".to_owned(), |at| format!("mounted on {}", at.display()));
        let new = if place.of_key.is_current { ", and its new ones" } else { "" };
        let keys = place.of_key.data_keys.map_or("some".to_owned(), |n| n.to_string());
        lines.push(format!("{label:<9}  {}: {at}; {keys} data keys{new}", place.store.display()));
    }
    lines
}

fn json(key: &KeyInfo, last_use: &LastUse, found: &[Found]) -> serde_json::Value {
    let last_use = match last_use {
        LastUse::At { when, operation, event } => serde_json::json!({
            "at": date(*when), "operation": operation, "event": event,
        }),
        LastUse::NotSince(when) => serde_json::json!({ "not_since": date(*when) }),
        LastUse::Unknown => serde_json::Value::Null,
    };
    let stores = found.iter().map(|place| {
        serde_json::json!({
            "store": place.store.to_string_lossy(),
            "mountpoint": place.mountpoint.as_ref().map(|at| at.to_string_lossy()),
            "data_keys": place.of_key.data_keys,
            "new_data_keys": place.of_key.is_current,
        })
    });
    serde_json::json!({
        "key": key.arn.0, "last_use": last_use, "stores": stores.collect::<Vec<_>>(),
    })
}
