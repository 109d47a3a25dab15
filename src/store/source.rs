//! Where new data keys come from: the part of `volume.json` that a rewrap changes.

use serde::{Deserialize, Serialize};

use super::provider::Provider;
use crate::kms::{KeyArn, KeyRef};

/// Where new data keys come from. Its text form has a MAC of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// How often this has changed: 1 from `init`, and one more at each change.
    pub generation: u64,
    /// Where the master key lives.
    pub provider: Provider,
    /// What the user named: an alias, an id or an ARN. New data keys are asked of it.
    pub asked: KeyRef,
    /// The master key that wrapped the volume key.
    pub master: KeyArn,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceText {
    generation: u64,
    provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    keystore: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    asked: String,
    master: String,
}

impl Source {
    /// The exact text that is MACed, behind the settings' own.
    pub fn encode(&self) -> String {
        let of_provider = match self.provider.clone() {
            Provider::Local { keystore } => {
                SourceText { keystore: Some(keystore), ..SourceText::default() }
            }
            Provider::Aws { region } => {
                SourceText { region: Some(region), ..SourceText::default() }
            }
            Provider::Vault { address, namespace, mount } => SourceText {
                address: Some(address),
                namespace: Some(namespace),
                mount: Some(mount),
                ..SourceText::default()
            },
            Provider::Pkcs11 { token } => {
                SourceText { token: Some(token), ..SourceText::default() }
            }
        };
        let text = SourceText {
            generation: self.generation,
            provider: self.provider.name().to_owned(),
            asked: self.asked.0.clone(),
            master: self.master.0.clone(),
            ..of_provider
        };
        serde_json::to_string(&text).expect("strings and numbers have a JSON form")
    }

    /// Reads exactly what [`Source::encode`] writes.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: String| format!("source: {why}");
        let s: SourceText = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        // A member of another provider's is found out below: it is not written again.
        let provider = match s.provider.as_str() {
            "local" => s.keystore.map(|keystore| Provider::Local { keystore }),
            "aws" => s.region.map(|region| Provider::Aws { region }),
            "vault" => match (s.address, s.namespace, s.mount) {
                (Some(address), Some(namespace), Some(mount)) => {
                    Some(Provider::Vault { address, namespace, mount })
                }
                _ => None,
            },
            "pkcs11" => s.token.map(|token| Provider::Pkcs11 { token }),
            _ => None,
        };
        let provider = provider.ok_or_else(|| bad("unknown provider".to_owned()))?;
        provider.check()?;
        let source = Self {
            generation: s.generation,
            provider,
            asked: KeyRef::parse(s.asked).map_err(|e| bad(format!("asked: {e}")))?,
            master: KeyArn::parse(s.master).map_err(|e| bad(format!("master: {e}")))?,
        };
        if source.encode() != text {
            return Err(bad("not in its one spelling".to_owned()));
        }
        Ok(source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Source {
        Source {
            generation: 3,
            provider: Provider::Local { keystore: "/k".to_owned() },
            asked: KeyRef("alias/kmsfs".to_owned()),
            master: KeyArn("arn:x".to_owned()),
        }
    }

    /// Volumes that are there depend on it, byte for byte.
    #[test]
    fn a_source_in_vault_has_one_spelling() {
        let mut source = sample();
        source.provider = Provider::Vault {
            address: "https://bao.example:8200".to_owned(),
            namespace: String::new(),
            mount: "transit".to_owned(),
        };
        source.master = KeyArn("vault:transit:key/db".to_owned());
        let text = concat!(
            r#"{"generation":3,"provider":"vault","address":"https://bao.example:8200","#,
            r#""namespace":"","mount":"transit","asked":"alias/kmsfs","#,
            r#""master":"vault:transit:key/db"}"#
        );
        assert_eq!(source.encode(), text);
        assert_eq!(Source::parse(text), Ok(source));
    }

    /// As above.
    #[test]
    fn a_source_on_a_token_has_one_spelling() {
        let mut source = sample();
        source.provider = Provider::Pkcs11 { token: "HSM 1".to_owned() };
        source.master = KeyArn("pkcs11:HSM%201:key/a1b2".to_owned());
        let text = concat!(
            r#"{"generation":3,"provider":"pkcs11","token":"HSM 1","asked":"alias/kmsfs","#,
            r#""master":"pkcs11:HSM%201:key/a1b2"}"#
        );
        assert_eq!(source.encode(), text);
        assert_eq!(Source::parse(text), Ok(source));
    }

    #[test]
    fn a_source_has_what_its_provider_has_and_nothing_else() {
        let text = sample().encode();
        let parse = |from: &str, to: &str| Source::parse(&text.replace(from, to)).is_ok();
        assert!(parse("", ""));
        assert!(!parse(r#""keystore":"/k""#, r#""keystore":"/k","mount":"transit""#));
        assert!(!parse(r#""local","keystore":"/k""#, r#""vault","mount":"transit""#));
        assert!(!parse(r#""local""#, r#""vault""#));
        assert!(!parse(r#""local""#, r#""pkcs11""#));
    }
}
