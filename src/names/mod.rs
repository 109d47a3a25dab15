//! Encrypted names, links and attributes.
