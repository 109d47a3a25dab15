//! `volume.json`: the settings, their MAC, and the wrapped volume key.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use crate::ids::VolumeId;
use crate::kms::{KeyArn, KeyRef, MAX_WRAPPED, Wrapped};

/// How names are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Names {
    /// Encrypted, deterministic within a directory.
    Encrypted,
    /// As they are.
    Plain,
}

/// How data keys are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKeys {
    /// Each by the KMS.
    PerFile,
    /// By branch keys, which the KMS wraps.
    Branch,
}

impl DataKeys {
    /// The word for it in `volume.json` and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::PerFile => "per-file",
            Self::Branch => "branch",
        }
    }
}

/// What `init` decided for the volume's life. The text form is MACed under the volume key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    format: u32,
    features: Vec<String>,
    volume: String,
    /// How names are stored.
    pub names: Names,
    /// How data keys are wrapped.
    pub data_keys: DataKeys,
    /// Whether files under another key than the present one are refused.
    pub only_current_key: bool,
}

impl Settings {
    /// Settings of format version 1.
    pub fn new(volume: VolumeId, names: Names, data_keys: DataKeys) -> Self {
        Self {
            format: 1,
            features: Vec::new(),
            volume: volume.to_string(),
            names,
            data_keys,
            only_current_key: false,
        }
    }

    /// The volume's id.
    pub fn volume(&self) -> VolumeId {
        VolumeId::parse(&self.volume).expect("checked by parse, or made from an id")
    }

    /// The exact text that is MACed.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists have a JSON form")
    }

    fn parse(text: &str) -> Result<Self, BadVolumeFile> {
        let bad = |why: String| BadVolumeFile::Damaged(format!("settings: {why}"));
        let s: Self = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if s.format != 1 {
            return Err(BadVolumeFile::Newer(format!("format {}", s.format)));
        }
        if let Some(f) = s.features.first() {
            return Err(BadVolumeFile::Newer(format!("feature {f:?}")));
        }
        VolumeId::parse(&s.volume).map_err(|e| bad(e.to_string()))?;
        if s.encode() != text {
            return Err(bad("not in their one spelling".to_owned()));
        }
        Ok(s)
    }
}

/// Where the master key lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The embedded keystore in this folder.
    Local {
        /// An absolute path.
        keystore: String,
    },
    /// AWS KMS.
    Aws {
        /// The region that `init` used.
        region: String,
    },
}

impl Provider {
    /// Its name in `volume.json` and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Local { .. } => "local",
            Self::Aws { .. } => "aws",
        }
    }
}

/// The wrapped volume key. It is outside the MAC: what it unwraps to must verify the MAC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// Where the master key lives.
    pub provider: Provider,
    /// What `init` was given: an alias, an id or an ARN.
    pub asked: KeyRef,
    /// The master key that wrapped it.
    pub master: KeyArn,
    /// The volume key.
    pub key: Wrapped,
    /// What each heartbeat decrypts.
    pub canary: Wrapped,
}

/// A volume file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFile {
    /// The settings.
    pub settings: Settings,
    /// HMAC-SHA256 over the settings' exact text.
    pub mac: [u8; 32],
    /// The wrapped volume key.
    pub wrap: Wrap,
}

/// Why a volume file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVolumeFile {
    /// Not what `encode` makes.
    #[error("it is damaged ({0})")]
    Damaged(String),
    /// Made by a newer kmsfs.
    #[error("it needs a newer kmsfs ({0})")]
    Newer(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    settings: String,
    mac: String,
    wrap: WrapText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrapText {
    provider: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    keystore: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    asked: String,
    master: String,
    key: String,
    canary: String,
}

impl WrapText {
    fn of(wrap: &Wrap) -> Self {
        let (provider, keystore, region) = match &wrap.provider {
            Provider::Local { keystore } => ("local", Some(keystore.clone()), None),
            Provider::Aws { region } => ("aws", None, Some(region.clone())),
        };
        Self {
            provider: provider.to_owned(),
            keystore,
            region,
            asked: wrap.asked.0.clone(),
            master: wrap.master.0.clone(),
            key: BASE64.encode(&wrap.key.0),
            canary: BASE64.encode(&wrap.canary.0),
        }
    }

    fn parse(self) -> Result<Wrap, String> {
        let provider = match (self.provider.as_str(), self.keystore, self.region) {
            ("local", Some(keystore), None) => Provider::Local { keystore },
            ("aws", None, Some(region)) => Provider::Aws { region },
            _ => return Err("wrap: unknown provider".to_owned()),
        };
        Ok(Wrap {
            provider,
            asked: KeyRef(self.asked),
            master: KeyArn(self.master),
            key: parse_wrapped(&self.key)?,
            canary: parse_wrapped(&self.canary)?,
        })
    }
}

/// Standard base64 with padding, of 1 to 6,144 bytes.
pub(super) fn parse_wrapped(text: &str) -> Result<Wrapped, String> {
    let bytes = BASE64.decode(text.as_bytes()).map_err(|e| format!("wrapped key: {e}"))?;
    if bytes.is_empty() || bytes.len() > MAX_WRAPPED {
        return Err(format!("wrapped key of {} bytes", bytes.len()));
    }
    Ok(Wrapped(bytes))
}

impl VolumeFile {
    /// The one text form: a JSON object and a newline.
    pub fn encode(&self) -> Vec<u8> {
        let outer = Outer {
            settings: self.settings.encode(),
            mac: HEXLOWER.encode(&self.mac),
            wrap: WrapText::of(&self.wrap),
        };
        let mut text =
            serde_json::to_vec_pretty(&outer).expect("strings and lists have a JSON form");
        text.push(b'\n');
        text
    }

    /// Reads exactly what [`VolumeFile::encode`] writes. The MAC is not verified: that needs
    /// the volume key.
    ///
    /// # Errors
    /// [`BadVolumeFile`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadVolumeFile> {
        let damaged = BadVolumeFile::Damaged;
        let outer: Outer = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        let settings = Settings::parse(&outer.settings)?;
        let mac = HEXLOWER
            .decode(outer.mac.as_bytes())
            .ok()
            .and_then(|m| m.try_into().ok())
            .ok_or_else(|| damaged("mac: not 64 hex digits".to_owned()))?;
        let wrap = outer.wrap.parse().map_err(damaged)?;
        let file = Self { settings, mac, wrap };
        if file.encode() != bytes {
            return Err(BadVolumeFile::Damaged("not in its one spelling".to_owned()));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> VolumeFile {
        VolumeFile {
            settings: Settings::new(VolumeId([3; 16]), Names::Encrypted, DataKeys::PerFile),
            mac: [9; 32],
            wrap: Wrap {
                provider: Provider::Local { keystore: "/k".to_owned() },
                asked: KeyRef("alias/kmsfs".to_owned()),
                master: KeyArn("arn:x".to_owned()),
                key: Wrapped(vec![1; 40]),
                canary: Wrapped(vec![2; 40]),
            },
        }
    }

    #[test]
    fn parse_accepts_exactly_what_encode_makes() {
        let bytes = sample().encode();
        assert_eq!(VolumeFile::parse(&bytes), Ok(sample()));
        for i in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[i] ^= 1;
            // Some flips give another valid value; none may give the same one.
            assert_ne!(VolumeFile::parse(&flipped), Ok(sample()), "byte {i}");
        }
        assert!(VolumeFile::parse(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn an_unknown_feature_refuses_the_volume() {
        let mut file = sample();
        file.settings.features.push("strict".to_owned());
        assert!(matches!(VolumeFile::parse(&file.encode()), Err(BadVolumeFile::Newer(_))));
    }
}
