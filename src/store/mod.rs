//! What lies under `STORE/.kmsfs`: the volume file, the sidecars, branch keys, bodies of long
//! links, the lock.

mod branch;
mod census;
mod folders;
mod layout;
mod sidecar;
mod volume_file;

pub use branch::{BranchFile, DamagedBranch};
pub use census::{BranchCount, Census, Counts};
pub use folders::{Copy, Folder};
pub use layout::{META, Store, StoreError};
pub use sidecar::{DamagedLine, Line, Page, WrapKind};
pub use volume_file::{BadVolumeFile, DataKeys, Names, Provider, Settings, VolumeFile, Wrap};
