//! What lies in a store beside the tree: the volume file, the sidecars, branch keys, bodies of
//! long links, the lock.

mod aside;
mod branch;
mod census;
mod copied;
mod copies;
mod folders;
mod layout;
mod needs;
mod pages;
mod provider;
mod removed;
mod sealed;
mod sidecar;
mod source;
mod volume_file;

pub use branch::{BranchFile, ByKms, DamagedBranch};
pub use census::{BranchCount, Census, Counts};
pub use copied::CopyState;
pub use copies::Copy;
pub use folders::Folder;
pub use layout::{FILES as TREE, LOCK, Store, StoreError};
pub use needs::{Lack, lacks};
pub use provider::Provider;
pub use removed::Removed;
pub use sidecar::{DamagedLine, Line, Page, SecondWrap, WrapKind};
pub use source::Source;
pub use volume_file::{BadVolumeFile, DataKeys, FORMAT, Names, Settings, VolumeFile, Wrap};
