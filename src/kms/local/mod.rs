//! The embedded keystore.
