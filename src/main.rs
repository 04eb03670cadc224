//! The `tollgate` binary.

use clap::Parser;
use std::process::ExitCode;
use tollgate::postgres::child;

/// A gateway that lets many teams share one paid video-generation account.
#[derive(Parser)]
enum Cli {
    /// Become a PostgreSQL process that ends when the gateway ends.
    #[command(hide = true)]
    PostgresChild(child::ChildArgs),
}

fn main() -> ExitCode {
    let Cli::PostgresChild(args) = Cli::parse();
    match child::run(args) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("tollgate: {error}");
            ExitCode::FAILURE
        }
    }
}
