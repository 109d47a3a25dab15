//! `mount.kmsfs`: this program under the name by which mount(8) calls the helper of a filesystem.
//! What fstab and mount(8) say becomes a `kmsfs mount` command line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::console::failure::{Exit, Failure};
use clap::{Arg, ArgAction, Command};

/// The names by which mount(8) looks for a helper: of the type `kmsfs`, and of `fuse.kmsfs`, as the
/// kernel lists it.
const NAMES: [&str; 2] = ["mount.kmsfs", "mount.fuse.kmsfs"];

/// How it is called.
pub(super) const USAGE: &str =
    "usage: mount.kmsfs STORE DIR [-fnsvrw] [-t kmsfs|fuse.kmsfs] [-o OPTIONS]";

/// Words for mount(8), systemd and desktops, and what is so on every mount: nothing to be done.
const FOR_OTHERS: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "nouser",
    "async",
    "silent",
    "loud",
    "default_permissions",
    "nomand",
    "lazytime",
    "nolazytime",
];
/// As these begin, too.
const FOR_OTHERS_WITH_VALUE: &[&str] = &["x-", "X-", "comment=", "helper=", "uhelper="];
/// What the kernel lists of a mount that is there, which mount(8) says again for a remount.
const LISTED: &[&str] = &["user_id=", "group_id=", "max_read=", "blksize="];

/// What `kmsfs mount -o` knows.
const FLAGS: &[&str] = &[
    "ro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "noatime",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nodiratime",
    "diratime",
];

/// Labels of SELinux.
const LABELS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

/// Whether the program was called as the helper.
pub(super) fn is_called_as(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| NAMES.iter().any(|n| name == *n))
}

/// What becomes of flags that a remount does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// They stay.
    #[default]
    Stays,
    /// They are off: mount(8) has said all that the kernel lists, and what is changed.
    Off,
}

/// What mount(8) wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// The words of a `kmsfs mount`, the program's name first.
    Mount(Vec<OsString>),
    /// All but the mount itself (`-f`).
    Pretend(Vec<OsString>),
    /// Other flags for a mount that is there.
    Remount {
        /// Where.
        at: PathBuf,
        /// Those that are said.
        words: Vec<String>,
        /// What becomes of the others.
        rest: Rest,
    },
    /// How it is called.
    Help,
}

/// As `-v` shows it.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(line) | Self::Pretend(line) => {
                let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
                f.write_str(&words.join(" "))
            }
            Self::Remount { at, words, .. } => {
                write!(f, "remount {} {}", at.display(), words.join(","))
            }
            Self::Help => f.write_str("help"),
        }
    }
}

/// How a call is answered for words that nothing here knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unknown {
    Refused,
    /// `-s`.
    PassedOver,
}

/// What a list of options says.
#[derive(Default)]
struct Said {
    /// Words for the kernel; the last of two that contradict each other counts.
    flags: Vec<String>,
    /// Options of `kmsfs mount`, as typed there.
    own: Vec<OsString>,
    remount: bool,
    rest: Rest,
}

/// Reads what mount(8) said, without the program's name; `verb` is `kmsfs mount`.
///
/// # Errors
/// What is wrong with it: exit code 1 of mount(8).
pub(super) fn read(verb: &Command, words: &[OsString]) -> Result<(Call, bool), Failure> {
    let mut paths = Vec::new();
    let mut lists = Vec::new();
    let (mut is_fake, mut is_verbose, mut unknown) = (false, false, Unknown::Refused);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        let mut value = |what: &str| {
            let next = words.next().and_then(|word| word.to_str()).map(str::to_owned);
            next.ok_or_else(|| usage(&format!("{what} takes a value")))
        };
        match text {
            "-o" | "--options" => lists.push(value("-o")?),
            "-t" | "--types" => match value("-t")?.as_str() {
                "kmsfs" | "fuse.kmsfs" => {}
                other => return Err(usage(&format!("-t {other}: it mounts kmsfs"))),
            },
            "-h" | "--help" => return Ok((Call::Help, false)),
            _ if text.len() > 1 && text.starts_with('-') && !text.starts_with("--") => {
                for letter in text[1..].chars() {
                    match letter {
                        'f' => is_fake = true,
                        // No table of mounts is written.
                        'n' => {}
                        's' => unknown = Unknown::PassedOver,
                        'v' => is_verbose = true,
                        'r' => lists.push("ro".to_owned()),
                        'w' => lists.push("rw".to_owned()),
                        other => return Err(usage(&format!("-{other} is not known"))),
                    }
                }
            }
            _ if text.starts_with("--") => return Err(usage(&format!("{text} is not known"))),
            _ => paths.push(word.clone()),
        }
    }
    let Ok([store, at]) = <[OsString; 2]>::try_from(paths) else {
        return Err(usage("a store and a folder are named"));
    };
    let mut said = Said::default();
    lists.iter().try_for_each(|list| said.add(verb, list, unknown))?;
    if said.remount {
        let call = Call::Remount { at: at.into(), words: said.flags, rest: said.rest };
        return Ok((call, is_verbose));
    }
    let mut line: Vec<OsString> = vec!["kmsfs".into(), "mount".into()];
    line.extend(said.flags.iter().map(|flag| format!("-o={flag}").into()));
    line.extend(said.own);
    line.extend(["--".into(), store, at]);
    let call = if is_fake { Call::Pretend(line) } else { Call::Mount(line) };
    Ok((call, is_verbose))
}

impl Said {
    fn add(&mut self, verb: &Command, list: &str, unknown: Unknown) -> Result<(), Failure> {
        self.remount |= split(list).any(|word| word == "remount");
        for word in split(list) {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(unquoted(value))),
                None => (word, None),
            };
            let for_others = FOR_OTHERS.contains(&word)
                || FOR_OTHERS_WITH_VALUE.iter().any(|begin| word.starts_with(begin));
            match (name, value) {
                ("remount", None) => {}
                (_, Some(_)) if self.remount && is_listed(word) => self.rest = Rest::Off,
                // Whoever may mount it is no reason for more than they have.
                ("user" | "users", _) => self.flags(&["nosuid", "nodev", "noexec"]),
                ("owner" | "group", None) => self.flags(&["nosuid", "nodev"]),
                // mount(8) passes `suid` and `dev` on only where `user` stands before them.
                ("allow_suid" | "allow-suid", None) => self.flags(&["suid"]),
                ("allow_dev" | "allow-dev", None) => self.flags(&["dev"]),
                _ if for_others => {}
                (_, None) if FLAGS.contains(&word) => self.flags(&[word]),
                // As mount(8) does where the kernel has no SELinux.
                (_, Some(_)) if LABELS.contains(&name) && !has_selinux() => {}
                (_, Some(_)) if LABELS.contains(&name) => {
                    return Err(usage(&format!("-o {name}: labels cannot be given to a mount")));
                }
                _ => match option(verb, name) {
                    Some(option) => self.own.push(typed(option, name, value)?),
                    None if unknown == Unknown::PassedOver => {}
                    None => return Err(no_such(verb, name)),
                },
            }
        }
        Ok(())
    }

    fn flags(&mut self, words: &[&str]) {
        self.flags.extend(words.iter().map(|word| (*word).to_owned()));
    }
}

fn is_listed(word: &str) -> bool {
    LISTED.iter().any(|begin| word.starts_with(begin))
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The words between commas; within quotes a comma is part of a word.
fn split(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let is_end = move |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    list.split(is_end).filter(|word| !word.is_empty())
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

/// The option of `kmsfs mount` with this long name; both spellings of its dashes count.
fn option<'a>(verb: &'a Command, name: &str) -> Option<&'a Arg> {
    let long = name.replace('_', "-");
    // In the foreground mount(8) would wait for the mount's end.
    let options = verb.get_arguments().filter(|option| option.get_id() != "foreground");
    options.into_iter().find(|option| option.get_long() == Some(&long))
}

fn typed(option: &Arg, name: &str, value: Option<&str>) -> Result<OsString, Failure> {
    let long = option.get_long().expect("found by its long name");
    let takes = matches!(option.get_action(), ArgAction::Set | ArgAction::Append);
    match value {
        Some(value) if takes => Ok(format!("--{long}={value}").into()),
        None if !takes => Ok(format!("--{long}").into()),
        Some(_) => Err(usage(&format!("-o {name} takes no value"))),
        None => Err(usage(&format!("-o {name} takes a value: {name}=VALUE"))),
    }
}

fn no_such(verb: &Command, name: &str) -> Failure {
    let names = verb.get_arguments().filter_map(Arg::get_long).filter(|long| *long != "foreground");
    let names: Vec<_> = names.collect();
    usage(&format!("-o {name}: no such option"))
        .hint(format!("beside the options of mount(8) there are: {}", names.join(", ")))
}

fn usage(why: &str) -> Failure {
    Failure::new(Exit::Usage, format!("mount.kmsfs: {why}")).hint(USAGE)
}

/// The exit codes of mount(8): 1 for a call that is wrong, 32 for a mount that failed.
pub(super) fn exit_code(exit: Exit) -> u8 {
    match exit {
        Exit::Ok => 0,
        Exit::Usage => 1,
        _ => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn said(words: &[&str]) -> Result<Call, String> {
        let mut command = super::super::Cli::command();
        command.build();
        let verb = command.find_subcommand("mount").expect("a verb");
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        read(verb, &words).map(|(call, _)| call).map_err(|failure| format!("{failure:?}"))
    }

    fn options(list: &str) -> Vec<String> {
        match said(&["/s", "/m", "-o", list]) {
            Ok(Call::Mount(words)) => {
                let words = words.iter().map(|w| w.to_string_lossy().into_owned());
                let words: Vec<_> = words.collect();
                assert_eq!(words[..2], ["kmsfs", "mount"]);
                assert_eq!(words[words.len() - 3..], ["--", "/s", "/m"]);
                words[2..words.len() - 3].to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_stands_in_fstab_is_understood() {
        assert_eq!(options("strictatime,nodiratime"), ["-o=strictatime", "-o=nodiratime"]);
        assert_eq!(options("defaults,lazytime,nofail,_netdev,noauto,x-systemd.automount"), [""; 0]);
        assert_eq!(options("ro,noatime,nosuid"), ["-o=ro", "-o=noatime", "-o=nosuid"]);
        assert_eq!(options("user,exec"), ["-o=nosuid", "-o=nodev", "-o=noexec", "-o=exec"]);
        assert_eq!(options("rw,allow_suid,allow-dev"), ["-o=rw", "-o=suid", "-o=dev"]);
        assert_eq!(
            options("heartbeat=5s,only_current_key,no-allow-other,key_ttl=1m,writeback"),
            [
                "--heartbeat=5s",
                "--only-current-key",
                "--no-allow-other",
                "--key-ttl=1m",
                "--writeback"
            ]
        );
        assert_eq!(options("on-lock=\"logger a,b\",ro"), ["-o=ro", "--on-lock=logger a,b"]);
        if !has_selinux() {
            assert_eq!(options("context=\"system_u:object_r:t:s0:c1,c2\",ro"), ["-o=ro"]);
        }
        assert_eq!(options("config=/etc/k.toml"), ["--config=/etc/k.toml"]);
    }

    #[test]
    fn what_mount_passes_is_understood() {
        let fake = said(&["/s", "/m", "-fnv", "-t", "fuse.kmsfs"]);
        assert!(matches!(fake, Ok(Call::Pretend(words)) if words.len() == 5));
        let sloppy = said(&["-s", "/s", "/m", "-o", "size=7,ro"]);
        assert!(matches!(sloppy, Ok(Call::Mount(words)) if words.contains(&"-o=ro".into())));
        let listed = "ro,relatime,remount,user_id=0,group_id=0,default_permissions,allow_other";
        for (list, words, rest) in [
            (listed, &["ro", "relatime"][..], Rest::Off),
            ("remount,ro,heartbeat=5s", &["ro"], Rest::Stays),
        ] {
            let again = said(&["/s", "/m", "-o", list]);
            let words = words.iter().map(ToString::to_string).collect();
            assert_eq!(again, Ok(Call::Remount { at: "/m".into(), words, rest }));
        }
        assert!(said(&["/s", "/m", "-o", "user_id=0"]).is_err(), "it is no option of a mount");
        assert!(is_called_as(OsStr::new("/sbin/mount.kmsfs")));
        assert!(!is_called_as(OsStr::new("/usr/bin/kmsfs")));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let wrong = |words: &[&str]| said(words).expect_err("a mistake");
        assert!(wrong(&["/s", "/m", "-o", "hartbeat=5s"]).contains("hartbeat: no such option"));
        assert!(wrong(&["/s", "/m", "-o", "foreground"]).contains("no such option"));
        assert!(wrong(&["/s", "/m", "-o", "writeback=yes"]).contains("takes no value"));
        assert!(wrong(&["/s", "/m", "-o", "heartbeat"]).contains("takes a value"));
        assert!(wrong(&["/s"]).contains("usage: mount.kmsfs"));
        assert!(wrong(&["/s", "/m", "-N", "1"]).contains("-N is not known"));
        assert!(wrong(&["/s", "/m", "-t", "ext4"]).contains("ext4"));
    }
}
