//! `kmsfs --help`: verbs in groups, and examples for each.

use std::fmt::Write;

use clap::Command;

/// The verbs, by what somebody wants to do.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Everyday", &["init", "mount", "unmount", "status", "lock", "unlock"]),
    ("Keys", &["key", "rewrap", "recover", "policy", "keystore", "shred"]),
    ("Upkeep", &["fsck", "backup", "export", "cat", "info", "config"]),
    ("Show and measure", &["demo", "bench", "man", "completion"]),
];

/// What one would type.
const EXAMPLES: [(&str, &[&str]); 17] = [
    (
        "init",
        &[
            "kmsfs init /srv/store",
            "kmsfs init /srv/store --kms aws --master-key alias/database",
            "kmsfs init /srv/store --data-keys branch --names plain",
            "kmsfs init /srv/store --recovery recipients.txt",
        ],
    ),
    (
        "mount",
        &[
            "kmsfs mount /srv/store /srv/data",
            "kmsfs mount /srv/store /srv/data --heartbeat 5s --metrics 9464 -o noexec",
            "kmsfs mount db",
        ],
    ),
    ("unmount", &["kmsfs unmount /srv/data", "kmsfs unmount /srv/data --lazy"]),
    ("status", &["kmsfs status", "kmsfs status /srv/data --watch", "kmsfs status --output json"]),
    ("lock", &["kmsfs lock /srv/data"]),
    ("unlock", &["kmsfs unlock /srv/data"]),
    (
        "key",
        &[
            "kmsfs key list",
            "kmsfs key disable alias/kmsfs",
            "kmsfs key enable alias/kmsfs",
            "kmsfs key --kms aws describe alias/database",
        ],
    ),
    (
        "rewrap",
        &[
            "kmsfs rewrap /srv/store --to alias/next --dry-run",
            "kmsfs rewrap /srv/store --to alias/next",
        ],
    ),
    (
        "recover",
        &[
            "kmsfs recover /srv/store --identity recovery.key --dry-run",
            "kmsfs recover /srv/store --identity recovery.key --master-key alias/next",
        ],
    ),
    (
        "policy",
        &[
            "kmsfs policy lint /srv/store",
            "kmsfs policy test /srv/store",
            "kmsfs policy generate /srv/store --for mount",
        ],
    ),
    ("keystore", &["kmsfs keystore passphrase", "kmsfs keystore backup /mnt/usb/keystore"]),
    ("shred", &["kmsfs shred /srv/data/old.sql"]),
    ("fsck", &["kmsfs fsck /srv/store", "kmsfs fsck /srv/store --repair"]),
    ("backup", &["kmsfs backup /srv/store /backup/store"]),
    ("export", &["kmsfs export /srv/store /tmp/clear"]),
    ("cat", &["kmsfs cat /srv/store folder/file"]),
    ("demo", &["kmsfs demo", "kmsfs demo --postgres --report demo.html", "kmsfs demo --also all"]),
];

/// The program's help with its verbs in groups, and each verb's with its examples.
pub(super) fn complete(mut program: Command) -> Command {
    for (verb, examples) in EXAMPLES {
        let text = examples.iter().fold("Examples:".to_owned(), |text, line| text + "\n  " + line);
        program = program.mut_subcommand(verb, |verb| verb.after_help(text));
    }
    let verbs = grouped(&program);
    program.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{verbs}\nOptions:\n{{options}}\n\n\
         kmsfs VERB --help has the options of a verb, and examples.\n"
    ))
}

fn grouped(program: &Command) -> String {
    let mut text = String::new();
    for (group, verbs) in GROUPS {
        let _ = write!(text, "\n{group}:\n");
        for verb in verbs.iter().filter_map(|name| program.find_subcommand(name)) {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {:<11} {about}", verb.get_name());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn each_verb_is_in_one_group() {
        let program = Cli::command();
        let shown = program.get_subcommands().filter(|verb| !verb.is_hide_set());
        let mut all: Vec<_> = shown.map(Command::get_name).collect();
        let mut grouped: Vec<_> =
            GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().copied()).collect();
        all.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(grouped, all);
        let help = complete(program).render_help().to_string();
        let at = |word: &str| help.find(word).unwrap_or_else(|| panic!("{word}: {help}"));
        assert!(at("Everyday:") < at("  mount ") && at("  mount ") < at("Keys:"));
    }

    #[test]
    fn examples_are_commands() {
        for (verb, examples) in EXAMPLES {
            for line in examples {
                assert!(line.starts_with(&format!("kmsfs {verb}")), "{line}");
                // A volume's name stands for both places, where a configuration file has it.
                let line = if *line == "kmsfs mount db" { "kmsfs mount s m" } else { line };
                let parsed = Cli::try_parse_from(line.split(' '));
                assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
            }
        }
    }
}
