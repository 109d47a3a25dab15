//! `kmsfs bench`: what this machine does: the cipher, a folder, and a mount whose store lies in
//! that folder.

mod work;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde::Serialize;

use self::work::{Figure, Unit};
use crate::console::failure::{Exit, Failure};
use crate::console::options::Output;
use crate::console::printing::say;

/// Arguments of `bench`.
#[derive(Args)]
pub struct Bench {
    /// A folder on the filesystem to be measured; what is made in it is removed
    dir: PathBuf,
    /// How many MiB the large file has
    #[arg(long, value_name = "MIB", default_value = "256", value_parser = clap::value_parser!(u32).range(16..=65536))]
    size: u32,
    /// How many small files are made
    #[arg(long, value_name = "N", default_value = "2000", value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    files: u32,
    /// Output format
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// A row: the same work on the folder itself and on the mount.
#[derive(Serialize)]
struct Row {
    what: &'static str,
    unit: Unit,
    store: f64,
    mount: f64,
}

#[derive(Serialize)]
struct Table {
    /// GiB/s on one core, in records of 4 KiB.
    seal: f64,
    open: f64,
    rows: Vec<Row>,
}

/// Runs `bench`.
///
/// # Errors
/// [`Failure`].
pub fn run(args: &Bench) -> Result<(), Failure> {
    let folder = BenchFolder::new(&args.dir).map_err(|e| Failure::io(&args.dir, &e))?;
    let size = work::Size { mib: args.size, files: args.files };
    let (seal, open) = work::cipher();
    let native = folder.0.join("native");
    std::fs::create_dir(&native).map_err(|e| Failure::io(&native, &e))?;
    let cool = || Ok(());
    let store = work::measure(&native, &size, &cool).map_err(|e| Failure::io(&native, &e))?;
    let mount = Mounted::new(&folder.0)?;
    let again = || mount.again().map_err(|f| std::io::Error::other(format!("{f:?}")));
    let at = mount.at();
    let mounted = work::measure(&at, &size, &again).map_err(|e| Failure::io(&at, &e))?;
    drop(mount);
    let pair = |(store, mount): (Figure, Figure)| Row {
        what: store.what,
        unit: store.unit,
        store: store.value,
        mount: mount.value,
    };
    print(
        &Table { seal, open, rows: store.into_iter().zip(mounted).map(pair).collect() },
        args.output,
    )
}

fn print(table: &Table, output: Output) -> Result<(), Failure> {
    if matches!(output, Output::Json) {
        let text = serde_json::to_string_pretty(table)
            .map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
        text.lines().for_each(|line| say!("{line}"));
        return Ok(());
    }
    say!("cipher, one core       seal {:.2} GiB/s, open {:.2} GiB/s", table.seal, table.open);
    say!("{:<30}{:>12}{:>12}  {:<10}{:>8}", "", "folder", "mount", "", "ratio");
    for Row { what, unit, store, mount } in &table.rows {
        let ratio = if unit.more_is_better() { store / mount } else { mount / store };
        say!("{what:<30}{store:>12.1}{mount:>12.1}  {:<10}{ratio:>7.1}×", unit.name());
    }
    Ok(())
}

/// A folder of its own, removed when dropped.
struct BenchFolder(PathBuf);

impl BenchFolder {
    fn new(dir: &Path) -> std::io::Result<Self> {
        let path = std::path::absolute(dir)?.join(format!("kmsfs-bench-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for BenchFolder {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            log::warn!("{}: it is left over: {e}", self.0.display());
        }
    }
}

/// A store of the bench's own, mounted by processes of their own as a user would; unmounted when
/// dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(folder: &Path) -> Result<Self, Failure> {
        let mount = Self(folder.to_owned());
        std::fs::create_dir(mount.at()).map_err(|e| Failure::io(&mount.at(), &e))?;
        mount.kmsfs(&["init", "store", "--keystore", "keystore", "--no-passphrase"])?;
        mount.mount()?;
        Ok(mount)
    }

    fn at(&self) -> PathBuf {
        self.0.join("mount")
    }

    fn mount(&self) -> Result<(), Failure> {
        self.kmsfs(&["mount", "store", "mount", "--keystore", "keystore"])
    }

    /// Unmounts and mounts again, so that the kernel holds nothing.
    fn again(&self) -> Result<(), Failure> {
        self.kmsfs(&["unmount", "mount"])?;
        self.mount()
    }

    fn kmsfs(&self, words: &[&str]) -> Result<(), Failure> {
        let done = Command::new("/proc/self/exe")
            .args(words)
            .current_dir(&self.0)
            .env("XDG_STATE_HOME", &self.0)
            .output()
            .map_err(|e| Failure::io(Path::new("/proc/self/exe"), &e))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let code = done.status.code().unwrap_or(1);
        Err(Failure::new(Exit::from_code(code), format!("{}: {}", words[0], said.trim())))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(e) = self.kmsfs(&["unmount", "mount"]) {
            log::warn!("{}: {e:?}", self.at().display());
        }
    }
}
