//! SoftHSM2, the library itself, with tokens in a folder of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Store, kmsfs, run};

/// The PIN of every token.
pub const PIN: &str = "73914";
/// The label of the first.
pub const TOKEN: &str = "kmsfs test";

/// Tokens in a folder, and the configuration by which the library finds them.
pub struct SoftHsm {
    folder: tempfile::TempDir,
}

impl SoftHsm {
    /// The library.
    pub fn module() -> PathBuf {
        let known = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"];
        let found = known.into_iter().map(PathBuf::from).find(|path| path.exists());
        found.expect("SoftHSM2 is missing: apt-get install softhsm2, or KMSFS_SKIP=softhsm")
    }

    /// With one token, `TOKEN`.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("kmsfs-hsm-").tempdir().expect("a folder");
        let hsm = Self { folder };
        fs::create_dir(hsm.tokens()).expect("made");
        fs::create_dir(hsm.at("away")).expect("made");
        let config = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n\
             slots.removable = false\n",
            hsm.tokens().display()
        );
        fs::write(hsm.at("softhsm2.conf"), config).expect("written");
        hsm.set_pin(PIN);
        hsm.add_token(TOKEN);
        hsm
    }

    /// Makes a token.
    pub fn add_token(&self, label: &str) {
        run(Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "so-pin-1"])
            .args(["--pin", PIN])
            .env("SOFTHSM2_CONF", self.at("softhsm2.conf")));
    }

    fn tokens(&self) -> PathBuf {
        self.at("tokens")
    }

    /// A path in its folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file of the PIN.
    pub fn pin_file(&self) -> PathBuf {
        self.at("pin")
    }

    /// Puts another PIN into its file; the token keeps its own.
    pub fn set_pin(&self, pin: &str) {
        fs::write(self.pin_file(), format!("{pin}\n")).expect("written");
    }

    /// Where the library finds the token, and nothing that is for kmsfs alone.
    pub fn place(&self) -> (String, String) {
        ("SOFTHSM2_CONF".to_owned(), self.at("softhsm2.conf").display().to_string())
    }

    /// How kmsfs finds the token, and its PIN.
    pub fn env(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.display().to_string();
        let kmsfs = [
            ("KMSFS_PKCS11_MODULE", text(Self::module())),
            ("KMSFS_PKCS11_TOKEN", TOKEN.to_owned()),
            ("KMSFS_PKCS11_PIN_FILE", text(self.pin_file())),
        ];
        let named = kmsfs.map(|(name, value)| (name.to_owned(), value));
        std::iter::once(self.place()).chain(named).collect()
    }

    /// `kmsfs key` on the token, in another process.
    pub fn key(&self, args: &[&str]) -> Command {
        let mut command = kmsfs();
        command.args(["key", "--kms", "pkcs11"]).args(args).envs(self.env());
        command
    }

    /// A store on a new key, `kmsfs`.
    pub fn store(&self, options: &[&str]) -> Store {
        run(&mut self.key(&["create", "--alias", "kmsfs"]));
        Store::pkcs11(&self.env(), &[&["--master-key", "alias/kmsfs"], options].concat())
    }

    /// The folder of the one token.
    pub fn token(&self) -> PathBuf {
        let mut all = fs::read_dir(self.tokens()).expect("listed").flatten();
        let token = all.next().expect("a token").path();
        assert!(all.next().is_none(), "one token");
        token
    }

    /// Takes the one token out of its slot.
    pub fn take_out(&self) {
        let token = self.token();
        fs::rename(&token, self.at("away").join(name(&token))).expect("moved");
    }

    /// Puts it back.
    pub fn put_back(&self) {
        let mut all = fs::read_dir(self.at("away")).expect("listed").flatten();
        let token = all.next().expect("a token").path();
        fs::rename(&token, self.tokens().join(name(&token))).expect("moved");
    }
}

fn name(path: &Path) -> &std::ffi::OsStr {
    path.file_name().expect("a name")
}
