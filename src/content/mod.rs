//! Records, sizes and headers of content files.
