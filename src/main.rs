//! The `kmsfs` command.

fn main() {}
