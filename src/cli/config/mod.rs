//! The configuration file: options as if they had been typed, before those that were.
//!
//! A line outside of tables is for every verb that has the option, a line in a table of the
//! verb's name for that verb, a line in a volume's table for verbs that are about that volume.
//! The more special line wins; variables win over the file, and what is typed over both.

mod check;
mod file;
mod line;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use toml::Value;

pub use check::{ConfigCommand, run};

use crate::console::failure::{Exit, Failure};
use file::{File, PLACES, Volume};
use line::{Line, as_name, option, takes_value};

/// The verb that is about the file itself, and reads it for itself.
const VERB: &str = "config";

/// A command line, and the file that added to it.
pub(super) struct Applied {
    /// All words, the program's name first.
    pub(super) words: Vec<OsString>,
    /// The file, where options of it were put in.
    pub(super) file: Option<PathBuf>,
}

/// What a mistake in the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistakes {
    /// Nothing is done before it is corrected.
    Stop,
    /// It is told, and what is right counts: whoever cuts access off corrects no file first.
    AreTold,
}

impl Mistakes {
    fn of(verb: &Command) -> Self {
        match verb.get_name() {
            "lock" | "unmount" | "key" => Self::AreTold,
            _ => Self::Stop,
        }
    }

    fn met(self, mistake: Failure) -> Result<(), Failure> {
        match self {
            Self::Stop => Err(mistake),
            Self::AreTold => {
                mistake.print();
                Ok(())
            }
        }
    }
}

/// Puts the file's options into what was `typed` (with the program's name), after the verb, and
/// the places of a volume where its name was typed.
///
/// # Errors
/// A file that cannot be read, that others may write, is not TOML, or names what is no option.
pub(super) fn apply(mut command: Command, typed: Vec<OsString>) -> Result<Applied, Failure> {
    command.build();
    let line = Line::of(&command, &typed).filter(|line| line.verb.get_name() != VERB);
    let Some(line) = line else { return Ok(Applied { words: typed, file: None }) };
    let mistakes = Mistakes::of(line.verb);
    match File::of(&typed) {
        Ok(Some(file)) => put_in(&command, &line, &typed, &file, mistakes),
        Ok(None) => Ok(Applied { words: typed, file: None }),
        Err(mistake) => mistakes.met(mistake).map(|()| Applied { words: typed, file: None }),
    }
}

fn put_in(
    command: &Command,
    line: &Line<'_>,
    typed: &[OsString],
    file: &File,
    mistakes: Mistakes,
) -> Result<Applied, Failure> {
    let mistake = |why: String| mistakes.met(wrong(&file.path, &why));
    check::names(command, file).or_else(mistake)?;
    let mut volumes: Vec<Volume<'_>> = Vec::new();
    for volume in file.volumes() {
        match volume {
            Ok(volume) => volumes.push(volume),
            Err(why) => mistake(why)?,
        }
    }
    let (volume, mut words) = match meant(line, typed, &volumes) {
        Some((volume, words)) => (Some(volume), words),
        None => (None, typed.to_vec()),
    };
    // By the option's name, so that a later table's line takes the place of an earlier one's.
    let mut lines = BTreeMap::new();
    let own = file.verb(line.verb.get_name());
    let tables = own.into_iter().chain(volume.map(|volume| volume.table)).flatten();
    for (name, value) in file.general().chain(tables) {
        let option = option(line.verb, name).filter(|option| !in_environment(option));
        if let Some(option) = option.filter(|_| !PLACES.contains(&name.as_str())) {
            lines.insert(option.get_id().as_str(), (option, name, value));
        }
    }
    let mut added = Vec::new();
    for (option, name, value) in lines.into_values() {
        match option_words(option, name, value) {
            Ok(words) => added.extend(words),
            Err(why) => mistake(why)?,
        }
    }
    let is_changed = !added.is_empty() || volume.is_some();
    words.splice(line.at + 1..line.at + 1, added);
    Ok(Applied { words, file: is_changed.then(|| file.path.clone()) })
}

/// The volume that a line is about, and the line with its places where its name was typed.
///
/// A word without `/` that is a volume's name means that volume: `./NAME` is a folder.
fn meant<'a, 'b>(
    line: &Line<'_>,
    typed: &[OsString],
    volumes: &'b [Volume<'a>],
) -> Option<(&'b Volume<'a>, Vec<OsString>)> {
    let mut words = typed.to_vec();
    let place = PLACES.into_iter().find(|place| line.operand(place).is_some())?;
    let at = line.operand(place)?;
    let word = &typed[at];
    if let Some(volume) = volumes.iter().find(|volume| as_name(word) == Some(volume.name)) {
        let mountpoint = volume.mountpoint.clone().map(PathBuf::into_os_string);
        if place == "mountpoint" {
            words[at] = mountpoint?;
            return Some((volume, words));
        }
        words[at] = volume.store.clone().into_os_string();
        if let (true, None, Some(mountpoint)) =
            (line.wants("mountpoint"), line.operand("mountpoint"), mountpoint)
        {
            words.insert(at + 1, mountpoint);
        }
        return Some((volume, words));
    }
    let real = fs::canonicalize(word).unwrap_or_else(|_| PathBuf::from(word));
    let is_at = |path: &Path| path == real || fs::canonicalize(path).is_ok_and(|p| p == real);
    let volume = volumes.iter().find(|volume| match place {
        "store" => is_at(&volume.store),
        _ => volume.mountpoint.as_deref().is_some_and(is_at),
    })?;
    Some((volume, words))
}

/// A volume, as a shell shows it.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) store: String,
    pub(super) mountpoint: Option<String>,
}

/// The volumes of the file that counts where none is typed. A mistake in it is for others to tell.
pub(super) fn volumes() -> Vec<Named> {
    let Ok(Some(file)) = File::of(&[]) else { return Vec::new() };
    let named = file.volumes().flatten().map(|volume| Named {
        name: volume.name.to_owned(),
        store: volume.store.display().to_string(),
        mountpoint: volume.mountpoint.map(|at| at.display().to_string()),
    });
    named.collect()
}

/// An error in the file.
pub(super) fn wrong(path: &Path, why: &str) -> Failure {
    let mut lines = why.trim_end().lines();
    let first = lines.next().unwrap_or_default();
    Failure::new(Exit::Config, format!("{}: {first}", path.display()))
        .details(lines)
        .hint("correct the file, or go without it: KMSFS_CONFIG= kmsfs …")
}

fn in_environment(option: &Arg) -> bool {
    option.get_env().is_some_and(|name| std::env::var_os(name).is_some())
}

/// The option as it would be typed.
fn option_words(option: &Arg, name: &str, value: &Value) -> Result<Vec<OsString>, String> {
    let dashed = match option.get_long() {
        Some(long) => format!("--{long}"),
        None => format!("-{name}"),
    };
    let takes = takes_value(option);
    match value {
        Value::Boolean(yes) if !takes => Ok(if *yes { vec![dashed.into()] } else { Vec::new() }),
        _ if !takes => Err(format!("{name} is true or false")),
        Value::String(s) => Ok(vec![format!("{dashed}={s}").into()]),
        Value::Integer(n) => Ok(vec![format!("{dashed}={n}").into()]),
        Value::Array(many) => {
            let each = many.iter().map(|one| option_words(option, name, one));
            Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
        }
        _ => Err(format!("{name} is a text, a number or a list of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn applied(file: &str, typed: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kmsfs.toml");
        fs::write(&path, file).expect("written");
        let config = format!("--config={}", path.display());
        let typed = typed.iter().map(|w| OsString::from(*w));
        let all = std::iter::once("kmsfs".into()).chain(typed).chain([config.into()]);
        let all = apply(super::super::Cli::command(), all.collect());
        let mut all = all.map_err(|f| format!("{f:?}"))?.words;
        all.pop();
        Ok(all.into_iter().skip(1).map(|w| w.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn a_verbs_own_line_wins_over_the_general_one() {
        let file =
            "heartbeat = '5s'\nkeystore = '/k'\n[mount]\nheartbeat = '3s'\nwriteback = true\n";
        let got = applied(file, &["mount", "s", "m"]);
        let wanted = ["mount", "--heartbeat=3s", "--keystore=/k", "--writeback", "s", "m"];
        assert_eq!(got.expect("valid"), wanted);
        assert_eq!(applied(file, &["info", "s"]).expect("valid"), ["info", "s"]);
    }

    const VOLUMES: &str = "heartbeat = '5s'\nkey-cache = 7\n[mount]\nheartbeat = '4s'\n\
        [volume.db]\nstore = '/s/db'\nmountpoint = '/m/db'\nheartbeat = '2s'\nkey_cache = 9\n\
        [volume.ci]\nstore = '/s/ci'\n";

    #[test]
    fn a_volume_is_found_by_its_name_and_by_its_places() {
        let got = |typed: &[&str]| applied(VOLUMES, typed).expect("valid");
        let options = ["mount", "--heartbeat=2s", "--key-cache=9"];
        assert_eq!(got(&["mount", "db"]), [&options[..], &["/s/db", "/m/db"]].concat());
        assert_eq!(got(&["mount", "db", "/x"]), [&options[..], &["/s/db", "/x"]].concat());
        assert_eq!(got(&["mount", "/s/db", "/x"]), [&options[..], &["/s/db", "/x"]].concat());
        let typed = ["mount", "-f", "--heartbeat", "1s", "db"];
        let typed_wins = ["-f", "--heartbeat", "1s", "/s/db", "/m/db"];
        assert_eq!(got(&typed), [&options[..], &typed_wins].concat());
        assert_eq!(got(&["unmount", "db"]), ["unmount", "/m/db"]);
        assert_eq!(got(&["lock", "db"]), ["lock", "/m/db"]);
        assert_eq!(got(&["status", "--output", "json", "db"])[3], "/m/db");
        assert_eq!(got(&["fsck", "db"]), ["fsck", "/s/db"]);
        assert_eq!(got(&["policy", "lint", "db"]), ["policy", "lint", "/s/db"]);
        // What is no name of a volume, or has no such place, stays as it was typed.
        assert_eq!(got(&["lock", "ci"]), ["lock", "ci"]);
        assert_eq!(got(&["fsck", "./db"]), ["fsck", "./db"]);
        assert_eq!(got(&["mount", "ci"])[1..], ["--heartbeat=4s", "--key-cache=7", "/s/ci"]);
    }

    #[test]
    fn lists_numbers_and_underscores() {
        let got = applied(
            "[mount]\nkey_cache = 7\nwriteback = false\no = ['ro', 'nodev']\n",
            &["mount", "s", "m"],
        );
        assert_eq!(got.expect("valid"), ["mount", "--key-cache=7", "-o=ro", "-o=nodev", "s", "m"]);
    }

    #[test]
    fn mistakes_are_named() {
        let said = |file| applied(file, &["mount", "s", "m"]).expect_err("a mistake");
        assert!(said("hartbeat = '5s'").contains("hartbeat is no option of kmsfs"));
        assert!(said("hartbeat = '5s'").contains("did you mean heartbeat?"));
        assert!(said("[mont]\n").contains("[mont] is no verb of kmsfs: did you mean mount?"));
        assert!(said("[info]\nheartbeat = '5s'\n").contains("no option of kmsfs info"));
        assert!(said("[mount]\nwriteback = 'yes'\n").contains("true or false"));
        assert!(said("[mount]\nheartbeat = { a = 1 }\n").contains("a text, a number"));
        assert!(said("= 1").contains("not TOML"));
        assert!(said("[volume.a]\n").contains("[volume.a] names no store"));
        assert!(said("[volume.a]\nstore = 's'\n").contains("store is a path from /"));
        assert!(said("[volume.'a/b']\nstore = '/s'\n").contains("is no name"));
        let said = said("[volume.a]\nstore = '/s'\nmountpiont = '/m'\n");
        assert!(said.contains("did you mean mountpoint?"), "{said}");
    }

    #[test]
    fn a_mistake_stops_nobody_who_cuts_access_off() {
        let file =
            "hartbeat = '5s'\nkeystore = '/k'\n[volume.a]\nstore = '/s'\nmountpoint = '/m'\n";
        assert_eq!(applied(file, &["lock", "a"]).expect("told"), ["lock", "/m"]);
        let disabled = applied(file, &["key", "disable", "k"]).expect("told");
        assert_eq!(disabled, ["key", "--keystore=/k", "disable", "k"]);
        assert_eq!(applied("= 1", &["lock", "/m"]).expect("told"), ["lock", "/m"]);
        applied(file, &["unlock", "a"]).expect_err("a mistake");
    }
}
