//! `volume.json`: the settings, the source of new data keys, their MACs, and the wrapped volume key.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::sealed;
use super::source::Source;
use crate::ids::VolumeId;
use crate::kms::{MAX_WRAPPED, Wrapped};
use crate::recovery::{Recipients, Sealed};

/// The version of the format that this code reads and writes.
pub const FORMAT: u32 = 2;

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
    /// Who can recover the volume without the KMS, if anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recipients>,
}

impl Settings {
    /// Settings of this format.
    pub fn new(volume: VolumeId, names: Names, data_keys: DataKeys) -> Self {
        Self {
            format: FORMAT,
            features: Vec::new(),
            volume: volume.to_string(),
            names,
            data_keys,
            only_current_key: false,
            recovery: None,
        }
    }

    /// The volume's id.
    pub fn volume(&self) -> VolumeId {
        VolumeId::parse(&self.volume).expect("checked by parse, or made from an id")
    }

    /// The texts of those who can recover the volume; none where nobody can.
    pub fn recipients(&self) -> Vec<String> {
        self.recovery.iter().flat_map(Recipients::texts).collect()
    }

    /// The exact text that is MACed.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists have a JSON form")
    }

    fn parse(text: &str) -> Result<Self, BadVolumeFile> {
        let bad = |why: String| BadVolumeFile::Damaged(format!("settings: {why}"));
        let s: Self = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if s.format != FORMAT {
            return Err(BadVolumeFile::OtherFormat(s.format));
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

/// The wrapped volume key, and where new data keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrap {
    /// Where new data keys come from.
    pub source: Source,
    /// The MAC of the source, under the volume key. `None` where a rewrap left it out that may
    /// only ReEncrypt, and so does not know the volume key.
    pub source_mac: Option<[u8; 32]>,
    /// The volume key. What it unwraps to must verify the MAC of the settings.
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
    /// The volume key, sealed to the settings' recipients, where there are any.
    pub recovery: Option<Sealed>,
    /// The wrapped volume key, and where new data keys come from.
    pub wrap: Wrap,
}

/// Why a volume file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVolumeFile {
    /// Not what `encode` makes.
    #[error("it is damaged ({0})")]
    Damaged(String),
    /// Of another version of the format.
    #[error("it is of format {0}; this kmsfs reads format {FORMAT}")]
    OtherFormat(u32),
    /// It uses what only a newer kmsfs knows.
    #[error("it needs a newer kmsfs ({0})")]
    Newer(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    settings: String,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_mac: Option<String>,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_mac: Option<String>,
    key: String,
    canary: String,
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
        let (recovery, recovery_mac) = sealed::encode(self.recovery.as_ref());
        let outer = Outer {
            settings: self.settings.encode(),
            mac: HEXLOWER.encode(&self.mac),
            recovery,
            recovery_mac,
            source: self.wrap.source.encode(),
            source_mac: self.wrap.source_mac.map(|mac| HEXLOWER.encode(&mac)),
            key: BASE64.encode(&self.wrap.key.0),
            canary: BASE64.encode(&self.wrap.canary.0),
        };
        let mut text =
            serde_json::to_vec_pretty(&outer).expect("strings and lists have a JSON form");
        text.push(b'\n');
        text
    }

    /// Reads exactly what [`VolumeFile::encode`] writes. The MACs are not verified: that needs
    /// the volume key.
    ///
    /// # Errors
    /// [`BadVolumeFile`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadVolumeFile> {
        let damaged = BadVolumeFile::Damaged;
        let outer: Outer = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        let settings = Settings::parse(&outer.settings)?;
        let wrap = Wrap {
            source: Source::parse(&outer.source).map_err(damaged)?,
            source_mac: outer.source_mac.as_deref().map(parse_mac).transpose().map_err(damaged)?,
            key: parse_wrapped(&outer.key).map_err(damaged)?,
            canary: parse_wrapped(&outer.canary).map_err(damaged)?,
        };
        let recovery = sealed::parse(outer.recovery, outer.recovery_mac).map_err(damaged)?;
        if recovery.is_some() != settings.recovery.is_some() {
            let why = "its settings name recipients of a recovery, or do not, and it is otherwise";
            return Err(damaged(why.to_owned()));
        }
        let mac = parse_mac(&outer.mac).map_err(damaged)?;
        let file = Self { settings, mac, recovery, wrap };
        if file.encode() != bytes {
            return Err(BadVolumeFile::Damaged("not in its one spelling".to_owned()));
        }
        Ok(file)
    }
}

pub(super) fn parse_mac(text: &str) -> Result<[u8; 32], String> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|m| m.try_into().ok());
    bytes.ok_or_else(|| "mac: not 64 hex digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kms::{KeyArn, KeyRef};
    use crate::store::Provider;

    fn sample() -> VolumeFile {
        VolumeFile {
            settings: Settings::new(VolumeId([3; 16]), Names::Encrypted, DataKeys::PerFile),
            mac: [9; 32],
            recovery: None,
            wrap: Wrap {
                source: Source {
                    generation: 3,
                    provider: Provider::Local { keystore: "/k".to_owned() },
                    asked: KeyRef("alias/kmsfs".to_owned()),
                    master: KeyArn("arn:x".to_owned()),
                },
                source_mac: Some([8; 32]),
                key: Wrapped(vec![1; 40]),
                canary: Wrapped(vec![2; 40]),
            },
        }
    }

    #[test]
    fn parse_accepts_exactly_what_encode_makes() {
        let mut unvouched = sample();
        unvouched.wrap.source_mac = None;
        assert_eq!(VolumeFile::parse(&unvouched.encode()), Ok(unvouched));
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

    /// Whoever can write the store must not add a recipient, nor take the sealed key away.
    #[test]
    fn recipients_and_the_sealed_key_come_together_and_in_one_spelling() {
        let one = crate::recovery::sample::PUBLIC;
        let mut file = sample();
        file.settings.recovery = Some(Recipients::new([one]).expect("one"));
        file.recovery = Some(Sealed { age: vec![5; 300], mac: [6; 32] });
        let bytes = file.encode();
        assert_eq!(VolumeFile::parse(&bytes), Ok(file.clone()));
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[i] ^= 1 << bit;
                assert_ne!(VolumeFile::parse(&flipped), Ok(file.clone()), "byte {i} bit {bit}");
            }
        }
        let is_damaged = |change: &dyn Fn(&mut VolumeFile)| {
            let mut file = file.clone();
            change(&mut file);
            matches!(VolumeFile::parse(&file.encode()), Err(BadVolumeFile::Damaged(_)))
        };
        assert!(!is_damaged(&|_| ()));
        assert!(is_damaged(&|f| f.recovery = None));
        assert!(is_damaged(&|f| f.settings.recovery = None));
        let age = |len: usize| Some(Sealed { age: vec![5; len], mac: [6; 32] });
        assert!(is_damaged(&|f| f.recovery = age(0)) && is_damaged(&|f| f.recovery = age(8193)));
        let text = String::from_utf8(bytes).expect("text");
        let without = |member: &str| {
            let lines = text.lines().filter(|line| !line.contains(member));
            VolumeFile::parse(lines.map(|l| l.to_owned() + "\n").collect::<String>().as_bytes())
        };
        assert!(without("\"recovery\"").is_err() && without("recovery_mac").is_err());
    }

    /// Each was printed as it is, by `info`, `status`, `rewrap` and in the log.
    #[test]
    fn what_can_be_no_name_is_damage() {
        let ok = |change: &dyn Fn(&mut Wrap)| {
            let mut file = sample();
            change(&mut file.wrap);
            VolumeFile::parse(&file.encode()).is_ok()
        };
        for bad in ["", "a\x1b[2J", "a b", "a\n", "ключ", &"x".repeat(2049)] {
            assert!(!ok(&|w| w.source.asked = KeyRef(bad.to_owned())), "{bad:?}");
            assert!(!ok(&|w| w.source.master = KeyArn(bad.to_owned())), "{bad:?}");
        }
        assert!(ok(&|w| w.source.asked = KeyRef("alias/a-b_c/d".to_owned())));
        let keystore = |path: &str| Provider::Local { keystore: path.to_owned() };
        for bad in ["", "k", "/\x1b]0;x\x07", "/a\u{202e}b", &format!("/{}", "x".repeat(4096))] {
            assert!(!ok(&|w| w.source.provider = keystore(bad)), "{bad:?}");
        }
        assert!(ok(&|w| w.source.provider = keystore("/home/müller/my keys")));
        let region = |name: &str| Provider::Aws { region: name.to_owned() };
        assert!(
            !ok(&|w| w.source.provider = region("eu\x1b[2J"))
                && ok(&|w| w.source.provider = region("eu-west-1"))
        );
        let vault = |namespace: &str| Provider::Vault {
            address: "https://bao.example:8200".to_owned(),
            namespace: namespace.to_owned(),
            mount: "transit".to_owned(),
        };
        assert!(
            !ok(&|w| w.source.provider = vault("../x"))
                && ok(&|w| w.source.provider = vault(""))
                && ok(&|w| w.source.provider = vault("team/a"))
        );
    }

    #[test]
    fn an_unknown_feature_refuses_the_volume() {
        let mut file = sample();
        file.settings.features.push("strict".to_owned());
        assert!(matches!(VolumeFile::parse(&file.encode()), Err(BadVolumeFile::Newer(_))));
        let mut file = sample();
        file.settings.format = 1;
        assert_eq!(VolumeFile::parse(&file.encode()), Err(BadVolumeFile::OtherFormat(1)));
    }
}
