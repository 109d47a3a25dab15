//! What is dangerous in a key policy.

use std::collections::BTreeSet;

use serde::Serialize;

use super::document::{Effect, Policy, Set, Statement, matches};
use super::{ADMINISTRATIVE, CONTEXT_KEYS, CRYPTOGRAPHIC, ENDING, VOLUME, WINDOW};
use crate::ids::VolumeId;
use crate::kms::KeyArn;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// More than needed is allowed.
    Warning,
    /// The promises of kmsfs do not hold under it.
    Danger,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The rule's name.
    pub rule: &'static str,
    /// The statement, where it is about one.
    pub statement: Option<String>,
    /// What is allowed to whom, and what follows.
    pub message: String,
}

struct Linter<'a> {
    policy: &'a Policy,
    found: Vec<Finding>,
}

/// Looks a key policy over; worst first. With `volume`, users must be held to that volume. With
/// `key`, what the key is by its ARN counts too. IAM policies, grants and service control
/// policies are not seen.
pub fn lint(policy: &Policy, key: Option<&KeyArn>, volume: Option<VolumeId>) -> Vec<Finding> {
    let mut linter = Linter { policy, found: Vec::new() };
    if let Some(key) = key.filter(|key| key.0.contains(":key/mrk-")) {
        let say = format!(
            "{key} is a multi-Region key: each replica has a state and a policy of its own, so \
             disabling this one does not cut off a mount with --replica-region; see which there \
             are, and disable each: aws kms describe-key --key-id {key}"
        );
        linter.add(Severity::Warning, "multi-region", None, say);
    }
    for statement in policy.statements.iter().filter(|s| s.effect == Effect::Allow) {
        linter.broad(statement);
        linter.context(statement, volume);
    }
    linter.principals();
    linter.window();
    linter.found.sort_by_key(|f| std::cmp::Reverse(f.severity));
    linter.found
}

/// The account's root, which stands for whatever IAM policies of the account allow.
fn is_root(principal: &str) -> bool {
    let is_account = principal.len() == 12 && principal.bytes().all(|b| b.is_ascii_digit());
    is_account || principal.starts_with("arn:") && principal.ends_with(":root")
}

fn is_everyone(statement: &Statement) -> bool {
    match &statement.principals {
        Set::Of(list) => list.iter().any(|p| p == "*"),
        Set::AllBut(_) => true,
    }
}

impl Linter<'_> {
    fn add(&mut self, severity: Severity, rule: &'static str, on: Option<&Statement>, say: String) {
        let statement = on.map(|s| s.name.clone());
        self.found.push(Finding { severity, rule, statement, message: say });
    }

    /// Statements that allow too many, or too much.
    fn broad(&mut self, s: &Statement) {
        if matches!(s.actions, Set::AllBut(_)) || matches!(s.principals, Set::AllBut(_)) {
            let say = "it allows with NotAction or NotPrincipal: all that is not thought of";
            self.add(Severity::Danger, "allow-by-exception", Some(s), say.to_owned());
        }
        if is_everyone(s) {
            let (severity, what) = match s.conditions.is_empty() {
                true => (Severity::Danger, "everyone, of every account, is allowed"),
                false => (Severity::Warning, "everyone whom its conditions let through is allowed"),
            };
            self.add(severity, "everyone", Some(s), what.to_owned());
        }
        if let Set::Of(list) = &s.actions
            && list.iter().any(|a| a == "*" || matches(a, "kms:PutKeyPolicy") && a.contains('*'))
        {
            let say = "its wildcard covers use, administration and deletion at once";
            self.add(Severity::Warning, "wildcard-action", Some(s), say.to_owned());
        }
        let Set::Of(principals) = &s.principals else { return };
        if !principals.iter().any(|p| is_root(p)) {
            return;
        }
        let root = principals.iter().find(|p| is_root(p)).cloned().unwrap_or_default();
        let open = [ENDING, CRYPTOGRAPHIC].concat();
        let open: Vec<_> =
            open.into_iter().filter(|a| s.covers(a) && !self.denied(&root, a)).collect();
        if !open.is_empty() {
            let say = format!(
                "the whole account may, as its IAM policies say: {}; whoever writes IAM policies \
                 decides over the key",
                open.join(", ")
            );
            self.add(Severity::Danger, "account-wide", Some(s), say);
        }
    }

    /// Users who are not held to a volume.
    fn context(&mut self, s: &Statement, volume: Option<VolumeId>) {
        let used: Vec<_> = CRYPTOGRAPHIC.iter().filter(|a| s.covers(a)).copied().collect();
        if used.is_empty() {
            return;
        }
        let volume = volume.map(|v| v.to_string());
        match s.condition(VOLUME).filter(|c| c.operator.ends_with("StringEquals")) {
            None => {
                let say = format!(
                    "{} without a condition on {VOLUME}: these users open every volume under \
                     this key",
                    used.join(", ")
                );
                self.add(Severity::Warning, "no-context", Some(s), say);
            }
            Some(c) => {
                let other = volume.filter(|v| !c.values.contains(v));
                if let Some(volume) = other {
                    let say = format!("its users cannot open this volume ({volume})");
                    self.add(Severity::Warning, "other-volume", Some(s), say);
                }
            }
        }
        let within = |keys: &[String]| keys.iter().all(|k| CONTEXT_KEYS.contains(&k.as_str()));
        if !s.condition("kms:EncryptionContextKeys").is_some_and(|c| within(&c.values)) {
            let say = "kms:EncryptionContextKeys is not held to those of kmsfs";
            self.add(Severity::Note, "context-keys", Some(s), say.to_owned());
        }
    }

    /// Everyone whom an Allow names.
    fn named(&self) -> BTreeSet<&str> {
        let allows = self.policy.statements.iter().filter(|s| s.effect == Effect::Allow);
        let lists = allows.filter_map(|s| match &s.principals {
            Set::Of(list) => Some(list),
            Set::AllBut(_) => None,
        });
        lists.flatten().map(String::as_str).collect()
    }

    /// Whether something denies an action to a principal whatever the request's other
    /// conditions.
    fn denied(&self, principal: &str, action: &str) -> bool {
        self.policy.statements.iter().any(|s| {
            s.effect == Effect::Deny
                && s.covers(action)
                && names(&s.principals, principal)
                && s.conditions.iter().all(|c| {
                    let exempt = c.values.iter().any(|v| matches(v, principal));
                    // A root stands for every role of the account, exempt ones among them; a
                    // deny of all but named roles is what is wanted.
                    c.key.eq_ignore_ascii_case("aws:PrincipalArn")
                        && ["ArnNotEquals", "ArnNotLike", "StringNotEquals", "StringNotLike"]
                            .contains(&c.operator.as_str())
                        && !exempt
                })
        })
    }

    fn may(&self, principal: &str, action: &str) -> bool {
        let allowed = self.policy.statements.iter().any(|s| {
            s.effect == Effect::Allow && s.covers(action) && names(&s.principals, principal)
        });
        allowed && !self.denied(principal, action)
    }

    /// Who can do what, all statements taken together.
    fn principals(&mut self) {
        let named: Vec<String> = self.named().into_iter().map(str::to_owned).collect();
        let who = |l: &Self, action: &str| -> Vec<String> {
            named.iter().filter(|p| l.may(p, action)).cloned().collect()
        };
        for p in &named {
            let list = |all: &[&'static str], l: &Self| -> Vec<&'static str> {
                all.iter().filter(|a| l.may(p, a)).copied().collect()
            };
            let (used, ruled) = (list(CRYPTOGRAPHIC, self), list(ADMINISTRATIVE, self));
            if !used.is_empty() && !ruled.is_empty() {
                let say = format!(
                    "{p} both uses the key ({}) and rules it ({})",
                    used.join(", "),
                    ruled.join(", ")
                );
                self.add(Severity::Danger, "user-administers", None, say);
            }
        }
        let lists = [
            ("can-disable", "kms:DisableKey", "can disable the key: nothing is readable then"),
            ("can-delete", "kms:ScheduleKeyDeletion", "can have it deleted: all is lost then"),
            (
                "can-move-alias",
                "kms:UpdateAlias",
                "can point an alias of this key to another: a volume that names the alias takes \
                 its new data keys from there",
            ),
            ("can-grant", "kms:CreateGrant", "can grant Decrypt to anyone, itself too"),
            ("can-set-policy", "kms:PutKeyPolicy", "can undo every Deny: an alarm belongs to it"),
        ];
        for (rule, action, what) in lists {
            let who = who(self, action);
            if who.is_empty() {
                continue;
            }
            let severity = match rule {
                "can-grant" => Severity::Warning,
                "can-disable" | "can-delete" | "can-move-alias" if who.len() > 1 => {
                    Severity::Warning
                }
                _ => Severity::Note,
            };
            self.add(severity, rule, None, format!("{what}: {}", who.join(", ")));
        }
        if who(self, "kms:PutKeyPolicy").is_empty() {
            let say = "nobody can change this policy: only AWS Support could";
            self.add(Severity::Warning, "no-recovery", None, say.to_owned());
        }
    }

    /// A deletion that waits for less than thirty days.
    fn window(&mut self) {
        let key = "kms:ScheduleKeyDeletionPendingWindowInDays";
        let guarded = self.policy.statements.iter().any(|s| {
            s.effect == Effect::Deny
                && is_everyone(s)
                && s.covers("kms:ScheduleKeyDeletion")
                && s.condition(key).is_some_and(|c| {
                    c.operator == "NumericLessThan"
                        && c.values.iter().all(|v| v.parse().is_ok_and(|days: u32| days >= WINDOW))
                })
        });
        let can = self
            .policy
            .statements
            .iter()
            .any(|s| s.effect == Effect::Allow && s.covers_any(&["kms:ScheduleKeyDeletion"]));
        if can && !guarded {
            let say = format!("a deletion may wait for less than {WINDOW} days");
            self.add(Severity::Warning, "short-deletion", None, say);
        }
    }
}

/// Whether a list names a principal: itself, or everyone.
fn names(set: &Set, principal: &str) -> bool {
    match set {
        Set::Of(list) => list.iter().any(|p| p == "*" || p == principal),
        Set::AllBut(list) => !list.iter().any(|p| p == principal),
    }
}

#[cfg(test)]
mod tests;
