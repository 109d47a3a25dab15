//! The `kmsfs` command.

use std::process::ExitCode;

/// Whatever is freed is wiped: TLS stacks, codecs and request buffers are not ours to wipe.
#[global_allocator]
static HEAP: kmsfs::secret::WipingHeap = kmsfs::secret::WipingHeap;

fn main() -> ExitCode {
    kmsfs::cli::main()
}
