//! What the command line says, word for word: `tests/transcripts/*.trycmd`.
//!
//! Each file is a session in a folder of its own. `[..]` stands for what differs from run to run.
//! To take what is said now for what is wanted: `TRYCMD=overwrite cargo test --test transcripts`,
//! and read the difference.

#[test]
fn sessions_are_as_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = trycmd::TestCases::new();
    cases
        .case("tests/transcripts/*.trycmd")
        .env("KMSFS_CONFIG", "")
        .env("XDG_STATE_HOME", folder.path().to_str().expect("text"))
        .env("XDG_DATA_HOME", folder.path().to_str().expect("text"))
        .env("COLUMNS", "100");
}
