//! What lies in a store beside the tree: the volume file, the sidecars, branch keys, bodies of
//! long links, the lock.

mod branch;
mod census;
mod copies;
mod folders;
mod layout;
mod pages;
mod removed;
mod sidecar;
mod volume_file;

pub use branch::{BranchFile, DamagedBranch};
pub use census::{BranchCount, Census, Counts};
pub use copies::Copy;
pub use folders::Folder;
pub use layout::{Store, StoreError};
pub use removed::Removed;
pub use sidecar::{DamagedLine, Line, Page, WrapKind};
pub use volume_file::{
    BadVolumeFile, DataKeys, FORMAT, Names, Provider, Settings, Source, VolumeFile, Wrap,
};
