//! The commands `config check`, `config reference` and `config schema`.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::{CliError, output};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check every value of a configuration file; starts nothing.
    Check {
        /// Configuration file to check.
        #[arg(value_name = "FILE", required_unless_present = "config")]
        file: Option<PathBuf>,
        /// Configuration file to check, given as to other commands.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Print the reference of all sections and fields, in Markdown.
    Reference,
    /// Print the JSON Schema of configuration files, for editors.
    Schema,
}

pub(super) fn run(command: ConfigCommand) -> Result<(), CliError> {
    match command {
        ConfigCommand::Check { file, config } => return check(&file.or(config).unwrap_or_default()),
        ConfigCommand::Reference => output::raw(crate::config::reference()),
        ConfigCommand::Schema => output::raw(format_args!("{:#}\n", crate::config::schema())),
    }
    Ok(())
}

/// Checks every value of a configuration file, and says how much memory a gateway with it may need.
fn check(file: &Path) -> Result<(), CliError> {
    let config = Config::load(file)?;
    output::note(format_args!("{} is a valid configuration", file.display()));
    for warning in config.warnings.iter().map(String::as_str).chain(config.quotes.warning()) {
        eprintln!("tollgate: warning: {warning}");
    }
    let memory = crate::app::memory(&config);
    let all: u64 = memory.iter().map(|(_, bytes)| bytes).sum();
    output::note(format_args!("the gateway may need up to {} MiB of memory:", all >> 20));
    for (what, bytes) in memory {
        output::note(format_args!("{:>7} MiB  {what}", bytes >> 20));
    }
    Ok(())
}
