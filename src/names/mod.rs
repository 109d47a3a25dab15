//! Encrypted names, symlink targets and attributes; pure.

mod keys;
mod link;
mod name;
mod sealed;
mod xattr;
mod xattr_block;

pub use keys::VolumeKeys;
pub use link::{
    BadLink, DiskLink, LinkText, open_body, open_inline, parse as parse_link, seal as seal_link,
    seal_body as seal_link_body,
};
pub use name::{
    BadName, DiskName, decrypt, decrypt_long, encrypt, is_entry, is_long_entry, is_record,
    longest_within, record_of,
};
pub use xattr::{
    BadXattr, disk_name as xattr_disk_name, is_sealed_name as is_sealed_xattr, open as open_xattr,
    seal as seal_xattr,
};
pub use xattr_block::{Apart, NAME as XATTR_BLOCK, XattrBlock};
