//! What package managers install, in a mount and beside it: the same files. They need their
//! registries, so `scripts/acceptance programs` runs these.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Mount, Store, run};

/// Everything below a folder: its mode, and its content or where it leads.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).expect("a folder").map(|entry| entry.expect("readable")) {
            let (path, metadata) = (entry.path(), entry.metadata().expect("there"));
            let content = if metadata.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                target.into_os_string().into_encoded_bytes()
            } else if metadata.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).expect("readable")
            };
            let path = path.strip_prefix(folder).expect("below").to_owned();
            all.insert(path, (metadata.permissions().mode(), content));
        }
    }
    all
}

/// The same files, and at least so many.
fn same(native: &Path, mounted: &Path, at_least: usize) {
    let (native, mounted) = (tree(native), tree(mounted));
    assert!(native.len() > at_least, "{} entries", native.len());
    let differ: Vec<_> = native.iter().filter(|(p, e)| mounted.get(*p) != Some(e)).collect();
    assert!(
        differ.is_empty() && native.len() == mounted.len(),
        "{:?}",
        differ.first().map(|d| d.0)
    );
}

#[test]
#[ignore = "scripts/acceptance programs runs it: it needs the registry of npm"]
fn npm_installs_the_same_files_as_beside_the_mount() {
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let npm = |at: &Path, args: &[&str]| {
        let mut npm = Command::new("npm");
        npm.args(args).args(["--no-audit", "--no-fund", "--no-update-notifier", "--cache"]);
        run(npm.arg(at.join("cache")).current_dir(at))
    };
    let (native, mounted) = (store.outside("npm"), mount.at("npm"));
    for folder in [&native, &mounted] {
        fs::create_dir(folder).expect("made");
    }
    let package = r#"{"name": "test", "version": "1.0.0", "private": true}"#;
    fs::write(native.join("package.json"), package).expect("written");
    npm(&native, &["install", "--save-exact", "eslint@9.39.1", "date-fns@4.1.0"]);
    for file in ["package.json", "package-lock.json"] {
        fs::copy(native.join(file), mounted.join(file)).expect("copied");
    }
    let modules = |at: &Path| at.join("node_modules");
    npm(&mounted, &["ci"]);
    // Of what the first run noted down of itself, the times differ.
    for _ in 0..2 {
        same(&modules(&native), &modules(&mounted), 5_000);
        npm(&mounted, &["ls", "--all"]);
        npm(&mounted, &["cache", "verify"]);
        npm(&mounted, &["ci", "--offline"]);
    }
    let told = run(Command::new("npx").args(["eslint", "--version"]).current_dir(&mounted));
    assert_eq!(told, "v9.39.1\n");
}

#[test]
#[ignore = "scripts/acceptance programs runs it: it needs PyPI"]
fn pip_installs_what_its_records_say() {
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let venv = mount.at("venv");
    run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    let python = |args: &[&str]| {
        let mut python = Command::new(venv.join("bin/python"));
        python.env("PIP_CACHE_DIR", mount.at("cache")).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        run(python.args(args))
    };
    python(&["-m", "pip", "install", "--quiet", "django==5.2.8", "numpy==2.2.6"]);
    python(&["-m", "pip", "check"]);
    // RECORD (PyPA's specification of installed projects) has a hash of every file; what is compiled
    // is compiled anew.
    let hashes = "
import base64, hashlib, importlib.metadata as m
n = 0
for d in m.distributions():
    for f in d.files:
        if f.hash and f.suffix != '.pyc':
            h = hashlib.new(f.hash.mode, f.locate().read_bytes()).digest()
            assert base64.urlsafe_b64encode(h).rstrip(b'=').decode() == f.hash.value, f
            n += 1
print(n)";
    let hashed: u32 = python(&["-c", hashes]).trim().parse().expect("a number");
    assert!(hashed > 5_000, "{hashed}");
    let lib = venv.join("lib").display().to_string();
    // Some packages ship templates of modules that are none.
    python(&["-m", "compileall", "-q", "-f", "-x", "template", &lib]);
    python(&["-c", "import numpy, django; assert numpy.arange(4).sum() == 6"]);
    python(&["-m", "pip", "install", "--quiet", "--force-reinstall", "django==5.2.8"]);
    assert_eq!(python(&["-c", hashes]).trim(), hashed.to_string());
}

#[test]
#[ignore = "scripts/acceptance programs runs it: it needs crates.io"]
fn cargo_builds_a_crate_from_the_registry() {
    let store = Store::new(&[]);
    let mount = store.mount(&[]);
    let home = mount.at("cargo-home");
    fs::create_dir(&home).expect("made");
    // Which registry this machine uses.
    let own = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let own = own.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    if let Some(config) = own.map(|own| own.join("config.toml")).filter(|config| config.exists()) {
        fs::copy(config, home.join("config.toml")).expect("copied");
    }
    let app = mount.at("app");
    fs::create_dir_all(app.join("src")).expect("made");
    let manifest = "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[dependencies]\n\
        serde = { version = \"1\", features = [\"derive\"] }\nserde_json = \"1\"\n";
    fs::write(app.join("Cargo.toml"), manifest).expect("written");
    let main = "#[derive(serde::Serialize)] struct S { n: u32 }\n\
        fn main() { println!(\"{}\", serde_json::to_string(&S { n: 42 }).unwrap()); }\n";
    fs::write(app.join("src/main.rs"), main).expect("written");
    let cargo = |mount: &Mount<'_>, args: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.env("CARGO_HOME", mount.at("cargo-home"));
        cargo.env("CARGO_TARGET_DIR", mount.at("app/target"));
        cargo.args(args).current_dir(mount.at("app"));
        run(&mut cargo)
    };
    assert_eq!(cargo(&mount, &["run", "--quiet"]), "{\"n\":42}\n");
    mount.unmount();
    let mount = store.mount(&[]);
    let fresh = ["build", "--offline", "--locked", "--message-format=json"];
    let told = cargo(&mount, &fresh);
    assert!(told.contains("\"fresh\":true") && !told.contains("\"fresh\":false"), "{told}");
    cargo(&mount, &["clean", "--quiet"]);
    assert_eq!(cargo(&mount, &["run", "--quiet", "--offline", "--locked"]), "{\"n\":42}\n");
}
