//! The `tollgate` binary: everything is in the library.

use std::process::ExitCode;

use clap::Parser;
use tollgate::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run()
}
