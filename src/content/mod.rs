//! Records, sizes and headers of content files; pure.

mod cipher;
mod geometry;
mod header;

pub use cipher::{ContentCipher, Opened, Unauthentic, check, is_hole};
pub use geometry::{
    HEADER, MAX_SIZE, PAGE, Span, capacity, disk_size, locate, plain_size, records, spans, start_of,
};
pub use header::{BadHeader, FirstPage, Header, has_magic, parse as parse_header};
