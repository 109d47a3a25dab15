//! The `kmsfs` command.

use std::process::ExitCode;

/// Whatever is freed is wiped: TLS stacks, codecs and request buffers are not ours to wipe.
#[global_allocator]
static HEAP: kmsfs::secret::WipingHeap = kmsfs::secret::WipingHeap;

fn main() -> ExitCode {
    #[cfg(kmsfs_copying)]
    eprintln!("kmsfs: THIS BUILD DOES NOT ENCRYPT CONTENT: it is for benches alone");
    kmsfs::cli::main()
}
