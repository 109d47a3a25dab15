//! The house: a module imports only from lower layers and from its own folder, and each foreign
//! crate is named only where it belongs. The source is read, as text.

use std::fs;
use std::path::{Path, PathBuf};

/// Every module and its layer; those of one layer do not import each other.
const LAYERS: &[(&str, u32)] = &[
    ("ids", 0),
    ("secret", 0),
    ("clock", 0),
    ("disk", 0),
    ("durable", 0),
    ("escape", 0),
    ("metrics", 0),
    ("sync", 0),
    ("threads", 0),
    ("walls", 0),
    ("xdg", 0),
    ("content", 1),
    ("names", 1),
    ("recovery", 1),
    ("store", 2),
    ("kms", 2),
    ("keys", 3),
    ("fs", 4),
    ("fuse", 5),
    ("control", 5),
    ("upkeep", 5),
    ("web", 5),
    ("daemon", 6),
    ("console", 7),
    ("bench", 8),
    ("demo", 8),
    ("cli", 9),
];

/// Layer 0 is one room whose parts stand on each other; the store's lines hold wrapped keys, so
/// it names the types of kms.
const ALLOWED: &[(&str, &str)] = &[("store", "kms")];

/// A foreign crate, and the only modules (or folders of one) that may name it.
const FOREIGN: &[(&str, &[&str])] = &[
    ("fuser::", &["fuse", "daemon"]),
    ("clap::", &["cli", "console", "bench", "demo"]),
    ("prometheus_client::", &["web"]),
    ("hyper::", &["web"]),
    ("hyper_util::", &["web", "kms/vault"]),
    ("http_body_util::", &["web"]),
    ("sd_notify::", &["daemon"]),
    ("humantime::", &["clock", "console"]),
    ("strsim::", &["cli"]),
    ("systemd_journal_logger::", &["cli"]),
    ("clap_complete::", &["cli"]),
    ("clap_mangen::", &["cli"]),
    ("rpassword::", &["console"]),
    ("age::", &["recovery"]),
    ("bech32::", &["recovery"]),
    ("argon2::", &["kms"]),
    ("lru::", &["keys", "fs"]),
    ("seccompiler::", &["walls"]),
    ("shuttle::", &["sync", "keys", "fuse/uring"]),
    ("aws_config::", &["kms/aws"]),
    ("aws_credential_types::", &["kms/aws"]),
    ("aws_sdk_kms::", &["kms/aws"]),
    ("aws_smithy_http_client::", &["kms/aws"]),
    ("aws_types::", &["kms/aws"]),
    ("rustls::", &["kms/aws", "kms/vault"]),
    ("tokio::", &["kms/aws", "web"]),
    ("ureq::", &["kms/vault"]),
    ("rustls_native_certs::", &["kms/vault"]),
    ("cryptoki::", &["kms/pkcs11"]),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("src is a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(sources(&path));
        } else {
            all.push(path);
        }
    }
    all
}

fn module_of(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let inner = path.strip_prefix(root).expect("under src");
    let first = inner.components().next().expect("a file").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

fn checked() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    for path in sources(&root) {
        let module = module_of(&path);
        if module == "lib" || module == "main" || path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        all.push((module, path, text));
    }
    assert!(all.len() > 40, "the source was found");
    all
}

#[test]
fn a_module_imports_only_from_lower_layers() {
    for (module, path, text) in checked() {
        let own = layer(&module).unwrap_or_else(|| panic!("{module} has no layer"));
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + "crate::".len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let named = &rest[..end];
            let Some(other) = layer(named).filter(|_| named != module) else { continue };
            let allowed = other < own
                || (own == 0 && other == 0)
                || ALLOWED.contains(&(module.as_str(), named));
            assert!(allowed, "{}: {module} imports {named}", path.display());
        }
    }
}

#[test]
fn each_foreign_crate_is_named_only_where_it_belongs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (module, path, text) in checked() {
        for (name, homes) in FOREIGN {
            let named = text
                .match_indices(name)
                .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            let folder = root.join(&module);
            let inner = path.strip_prefix(&folder).unwrap_or(Path::new(""));
            let at_home = |home: &&str| match home.split_once('/') {
                Some((first, rest)) => *first == module && inner.starts_with(rest),
                None => **home == *module,
            };
            let fine = !named || homes.iter().any(at_home);
            assert!(fine, "{}: {module} names {name}", path.display());
        }
    }
}

/// Code that ships: without the tests at the end of a file, and without files of tests.
fn shipped<'a>(path: &Path, text: &'a str) -> &'a str {
    const OF_TESTS: [&str; 4] = ["tests.rs", "interleavings.rs", "meanwhile.rs", "fixture.rs"];
    let name = path.file_name().expect("a file").to_string_lossy();
    if OF_TESTS.contains(&&*name) {
        return "";
    }
    text.split("\nmod tests {").next().unwrap_or_default()
}

#[test]
fn threads_are_started_in_one_place() {
    let (mut others, mut here) = (Vec::new(), 0);
    for (module, path, text) in checked() {
        for way in ["thread::Builder", "Builder::new().name", "thread::spawn", "scope.spawn("] {
            let found = shipped(&path, &text).matches(way).count();
            match module.as_str() {
                "threads" => here += found,
                _ if found > 0 => others.push(format!("{}: {way}", path.display())),
                _ => {}
            }
        }
    }
    assert_eq!(others, [] as [String; 0], "use crate::threads::spawn");
    assert!(here > 0, "and this test knows what that looks like");
}

/// What is printed is escaped in `console::printing`. Others write what is not text of their own
/// making: a file's content, a word between processes, coloured lines, another's TLS.
#[test]
fn only_the_console_writes_to_the_terminal() {
    const WRITERS: &[&str] = &[
        "src/console/printing.rs",
        "src/cli/export.rs",
        "src/cli/background.rs",
        "src/demo/role.rs",
        "src/demo/screen.rs",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut writers = Vec::new();
    for (_, path, text) in checked() {
        let text = shipped(&path, &text);
        let ways = ["io::stdout()", "io::stderr()", "println!", "eprint!"];
        if ways.iter().any(|way| text.contains(way)) {
            let inner = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
            writers.push(inner);
        }
    }
    writers.sort();
    let mut allowed = WRITERS.to_vec();
    allowed.sort_unstable();
    assert_eq!(writers, allowed, "use say! and tell! of console::printing");
}

#[test]
fn no_file_is_longer_than_four_hundred_lines() {
    for (_, path, text) in checked() {
        let lines = text.lines().count();
        assert!(lines <= 400, "{} has {lines} lines", path.display());
    }
}

/// Whoever types what the docs say gets the dependencies that were tested.
#[test]
fn what_is_built_is_what_is_locked() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![root.join("README.md"), root.join("SECURITY.md")];
    for folder in ["docs", "scripts", "benches", "examples", "src"] {
        texts.extend(sources(&root.join(folder)));
    }
    let mut commands = 0;
    for path in texts.into_iter().filter(|path| path.extension().is_none_or(|e| e != "png")) {
        let text = fs::read_to_string(&path).expect("text");
        for verb in ["build", "test", "run", "install", "bench", "clippy", "doc"] {
            let command = format!("cargo {verb}");
            for (at, _) in text.match_indices(&command) {
                let rest = &text[at + command.len()..];
                let is_locked = rest.starts_with(" --locked");
                let is_word = rest.starts_with(char::is_alphanumeric);
                assert!(is_locked || is_word, "{}: {command} without --locked", path.display());
                commands += usize::from(is_locked);
            }
        }
    }
    assert!(commands > 10, "and this test knows what that looks like: {commands}");
}
