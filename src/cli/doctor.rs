//! `tollgate doctor`: what would go wrong with a configuration.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{CliError, block_on, output};
use crate::app::{Diagnosis, Severity, diagnose};
use crate::config::Config;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Configuration file of the gateway.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

/// Prints everything that was found. Fails if a gateway would not start or not do its work.
pub(super) fn run(args: DoctorArgs) -> Result<(), CliError> {
    block_on(async move {
        let found = match Config::load(&args.config) {
            Ok(config) => diagnose(&config).await,
            Err(error) => error
                .each()
                .into_iter()
                .map(|problem| {
                    let remedy =
                        "Mend it in the file or the environment; 'tollgate config reference' has every field";
                    Diagnosis::error("configuration", problem.to_string(), remedy)
                })
                .collect(),
        };
        let of = |level| found.iter().filter(|finding| finding.level == level).count();
        let (errors, warnings) = (of(Severity::Error), of(Severity::Warning));
        if args.json {
            output::raw(format_args!("{:#}\n", json!({ "healthy": errors == 0, "findings": found })));
        } else {
            for Diagnosis { area, level, what, remedy } in &found {
                let mark = match level {
                    Severity::Ok => "ok     ",
                    Severity::Warning => "warning",
                    Severity::Error => "ERROR  ",
                };
                output::note(format_args!("{mark}  {area}: {what}"));
                if let Some(remedy) = remedy {
                    output::note(format_args!("         {remedy}"));
                }
            }
        }
        if errors == 0 {
            Ok(())
        } else {
            let counted =
                |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
            Err(CliError::Failed(format!(
                "a gateway with this configuration would not work: {}, {}",
                counted(errors, "error"),
                counted(warnings, "warning")
            )))
        }
    })
}
