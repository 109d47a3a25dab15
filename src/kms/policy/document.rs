//! The policy language, as far as key policies use it.

use serde_json::{Map, Value};

/// Why a policy cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not JSON.
    #[error("it is not JSON: {0}")]
    Json(String),
    /// Not a policy.
    #[error("it is not a policy: {0}")]
    Shape(String),
}

/// Allow or Deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What it matches is allowed, unless something denies it.
    Allow,
    /// What it matches is denied.
    Deny,
}

/// A list, or all but a list (`NotAction`, `NotPrincipal`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Of(Vec<String>),
    AllBut(Vec<String>),
}

/// One test of a condition block: all of them must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `StringEquals`, `ForAllValues:StringEquals`, …
    pub operator: String,
    /// `aws:PrincipalArn`, …
    pub key: String,
    /// What it is compared with.
    pub values: Vec<String>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its `Sid`, or `#` and its number from 1.
    pub name: String,
    /// What it does.
    pub effect: Effect,
    pub(super) principals: Set,
    pub(super) actions: Set,
    /// When it counts.
    pub conditions: Vec<Condition>,
}

/// A key policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its statements, in their order.
    pub statements: Vec<Statement>,
}

/// Whether a pattern with `*` and `?` matches a text, in any case of letters.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (p, t): (Vec<u8>, Vec<u8>) =
        (pattern.to_ascii_lowercase().into(), text.to_ascii_lowercase().into());
    let (mut i, mut j, mut star) = (0, 0, None);
    while j < t.len() {
        match p.get(i) {
            Some(b'*') => {
                star = Some((i, j));
                i += 1;
            }
            Some(c) if *c == b'?' || *c == t[j] => (i, j) = (i + 1, j + 1),
            _ => {
                // Let the last star take one more byte.
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                (i, j) = (at + 1, from + 1);
            }
        }
    }
    p[i..].iter().all(|c| *c == b'*')
}

impl Statement {
    /// Whether an action is among its own.
    pub(super) fn covers(&self, action: &str) -> bool {
        match &self.actions {
            Set::Of(list) => list.iter().any(|p| matches(p, action)),
            Set::AllBut(list) => !list.iter().any(|p| matches(p, action)),
        }
    }

    /// Whether it covers any of these.
    pub(super) fn covers_any(&self, actions: &[&str]) -> bool {
        actions.iter().any(|a| self.covers(a))
    }

    /// The condition on this key, if there is one.
    pub(super) fn condition(&self, key: &str) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.key.eq_ignore_ascii_case(key))
    }
}

impl Policy {
    /// Reads a policy document.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| PolicyError::Json(e.to_string()))?;
        let found = match value.get("Statement") {
            Some(Value::Array(list)) => list.clone(),
            Some(one @ Value::Object(_)) => vec![one.clone()],
            _ => return Err(shape("it has no Statement")),
        };
        let statements: Result<_, _> =
            found.iter().enumerate().map(|(n, s)| statement(n, s)).collect();
        Ok(Self { statements: statements? })
    }
}

fn shape(what: &str) -> PolicyError {
    PolicyError::Shape(what.to_owned())
}

fn statement(n: usize, value: &Value) -> Result<Statement, PolicyError> {
    let map = value.as_object().ok_or_else(|| shape("a statement is no object"))?;
    let name = map.get("Sid").and_then(Value::as_str).filter(|s| !s.is_empty());
    let name = name.map_or_else(|| format!("#{}", n + 1), str::to_owned);
    let bad = |what: &str| PolicyError::Shape(format!("statement {name}: {what}"));
    let effect = match map.get("Effect").and_then(Value::as_str) {
        Some("Allow") => Effect::Allow,
        Some("Deny") => Effect::Deny,
        _ => return Err(bad("its Effect is neither Allow nor Deny")),
    };
    let set = |member: &str| -> Result<Set, PolicyError> {
        let negated = format!("Not{member}");
        let read = |v: &Value| strings(v).ok_or_else(|| bad(&format!("its {member} is no text")));
        match (map.get(member), map.get(&negated)) {
            (Some(v), None) => read(v).map(Set::Of),
            (None, Some(v)) => read(v).map(Set::AllBut),
            _ => Err(bad(&format!("it has not one of {member} and {negated}"))),
        }
    };
    let conditions = match map.get("Condition") {
        None => Vec::new(),
        Some(Value::Object(block)) => {
            conditions(block).ok_or_else(|| bad("its Condition cannot be read"))?
        }
        Some(_) => return Err(bad("its Condition is no object")),
    };
    let (principals, actions) = (set("Principal")?, set("Action")?);
    Ok(Statement { name, effect, principals, actions, conditions })
}

/// A text, a list of them, or (of principals) an object of those by kind.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(s) => Some(vec![s.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        Value::Object(kinds) => {
            let all: Option<Vec<_>> = kinds.values().map(strings).collect();
            all.map(|lists| lists.concat())
        }
        _ => None,
    }
}

fn conditions(block: &Map<String, Value>) -> Option<Vec<Condition>> {
    let mut all = Vec::new();
    for (operator, tests) in block {
        for (key, value) in tests.as_object()? {
            let values = match value {
                Value::Bool(b) => vec![b.to_string()],
                Value::Number(n) => vec![n.to_string()],
                other => strings(other)?,
            };
            all.push(Condition { operator: operator.clone(), key: key.clone(), values });
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_iam() {
        for (pattern, text) in [
            ("kms:*", "kms:Decrypt"),
            ("*", "kms:Decrypt"),
            ("kms:re*ypt?rom", "kms:ReEncryptFrom"),
            ("KMS:DECRYPT", "kms:Decrypt"),
            ("kms:Generate*Key*", "kms:GenerateDataKey"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("kms:Decrypt", "kms:DecryptX"), ("kms:?", "kms:ab"), ("", "x")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_policy_is_told() {
        assert!(matches!(Policy::parse("{"), Err(PolicyError::Json(_))));
        for text in [
            "[]",
            r#"{"Statement":[{"Effect":"Maybe","Principal":"*","Action":"*"}]}"#,
            r#"{"Statement":[{"Effect":"Allow","Action":"*"}]}"#,
            r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":7}]}"#,
            r#"{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Condition":[]}]}"#,
        ] {
            assert!(matches!(Policy::parse(text), Err(PolicyError::Shape(_))), "{text}");
        }
    }
}
