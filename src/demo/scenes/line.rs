//! The line to the KMS, as far as a demonstration can cut it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::forwarder::{Forwarder, Upstream};
use crate::console::failure::Failure;
use crate::demo::options::{Demo, Route};
use crate::demo::stage::Stage;

/// A line; it is whole again when dropped.
pub(super) enum Line {
    /// The keystore's folder, which can be moved away.
    Folder {
        /// Where it belongs.
        at: PathBuf,
        /// Where it is while the line is cut.
        away: PathBuf,
    },
    /// Connections to where the KMS is.
    Wire(Forwarder),
}

/// How a mount reaches the KMS by a line.
pub(super) struct Through {
    /// Words for `mount`.
    pub(super) words: Vec<OsString>,
    /// The proxy in its environment.
    pub(super) proxy: Option<String>,
}

impl Line {
    /// The line to the KMS, and how a mount takes it; or why there is none that can be cut.
    ///
    /// # Errors
    /// When no port can be had.
    pub(super) fn new(
        stage: &Stage,
        args: &Demo,
    ) -> Result<Result<(Self, Through), &'static str>, Failure> {
        let start = |upstream| {
            Forwarder::start(upstream).map_err(|e| Failure::io(Path::new("127.0.0.1"), &e))
        };
        let direct = stage.master().for_mount();
        Ok(Ok(match args.route() {
            Route::Keystore => {
                let at = stage.keystore();
                let away = at.with_file_name("keystore-away");
                (Self::Folder { at, away }, Through { words: direct, proxy: None })
            }
            Route::Plain(upstream) => {
                let forwarder = start(Upstream::Fixed(upstream))?;
                let words = args.words_by(&format!("http://{}", forwarder.address()));
                (Self::Wire(forwarder), Through { words, proxy: None })
            }
            Route::Proxy => {
                let forwarder = start(Upstream::Asked)?;
                let proxy = Some(format!("http://{}", forwarder.address()));
                (Self::Wire(forwarder), Through { words: direct, proxy })
            }
            Route::Uncut(why) => return Ok(Err(why)),
        }))
    }

    /// Cuts it.
    ///
    /// # Errors
    /// When the folder cannot be moved.
    pub(super) fn cut(&self) -> Result<(), Failure> {
        match self {
            Self::Folder { at, away } => fs::rename(at, away).map_err(|e| Failure::io(at, &e)),
            Self::Wire(forwarder) => {
                forwarder.cut();
                Ok(())
            }
        }
    }

    /// Makes it whole again.
    ///
    /// # Errors
    /// When the folder cannot be moved back.
    pub(super) fn mend(&self) -> Result<(), Failure> {
        match self {
            Self::Folder { at, away } => fs::rename(away, at).map_err(|e| Failure::io(away, &e)),
            Self::Wire(forwarder) => {
                forwarder.mend();
                Ok(())
            }
        }
    }

    /// What cutting it is, as it is told.
    pub(super) fn orders(&self) -> [&'static str; 2] {
        match self {
            Self::Folder { .. } => {
                ["the keystore's folder is moved away", "the keystore's folder is moved back"]
            }
            Self::Wire(_) => {
                ["the connections to the KMS are cut", "the KMS can be connected to again"]
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Self::Folder { away, .. } = self
            && away.exists()
        {
            // The stage is about to be taken down; a store that is kept needs its keystore.
            let _ = self.mend();
        }
    }
}
