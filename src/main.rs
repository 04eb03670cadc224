//! The `tollgate` binary: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use tollgate::cli::Cli;

/// Gives memory back after a peak, and is faster with many threads than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
