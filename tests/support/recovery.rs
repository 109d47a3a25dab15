//! Recipients of a recovery, and those who have their identities.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use kmsfs::keys::{Opener, SealedOf};
use kmsfs::recovery::Identities;
use kmsfs::store::Store as Layout;

/// An identity, in a file as age-keygen makes it.
pub struct Holder {
    /// The file.
    pub file: PathBuf,
    /// Its public key.
    pub recipient: String,
    identity: age::x25519::Identity,
}

impl Holder {
    /// A new one, whose file is this.
    pub fn new(file: PathBuf) -> Self {
        let identity = age::x25519::Identity::generate();
        let recipient = identity.to_public().to_string();
        let secret = identity.to_string();
        let text = format!(
            "# created: 2026-01-01T00:00:00Z\n# public key: {recipient}\n{}\n",
            secret.expose_secret()
        );
        std::fs::write(&file, text).expect("written");
        Self { file, recipient, identity }
    }

    /// What opens a store for its holder.
    pub fn opens(&self, store: &Path) -> Arc<Opener> {
        let text = self.identity.to_string();
        let identities = Identities::parse(text.expose_secret()).expect("one");
        let layout = Layout::open_path(store).expect("a store");
        Arc::new(Opener::new(&layout, identities).expect("a recipient of it"))
    }

    /// Every branch key that is sealed to its recipient, by name.
    pub fn branch_keys(&self, store: &Path) -> Vec<(String, [u8; 32])> {
        let (layout, opener) = (Layout::open_path(store).expect("a store"), self.opens(store));
        let key = |id| {
            let file = layout.read_branch(id).expect("a branch file");
            let key = opener.sealed(SealedOf::Branch(id), file.recovery.as_ref()).expect("opens");
            (format!("branch key {id}"), *key.expose())
        };
        layout.branches().expect("listed").into_iter().map(key).collect()
    }
}
