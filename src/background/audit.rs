//! The periodic audit: runs it when it is due and no other gateway runs it, and shows the newest result in the metrics.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ids::GatewayId;
use crate::metrics as m;
use crate::store::{AUDIT_CHECKS, Database, StoreError};

/// The deadline of the job. The audit has a shorter limit of its own.
pub(super) const DEADLINE: Duration = Duration::from_secs(3600);

/// The label value for a check that only a newer gateway knows.
const OTHER: &str = "other";

/// Runs the audit if it is due, and logs what it finds. A stop cancels it.
pub(super) async fn run(
    database: &Database,
    gateway: GatewayId,
    every: Duration,
    stop: &CancellationToken,
) -> Result<(), StoreError> {
    let breaches = database
        .audit_if_due(gateway, every, stop)
        .await
        .inspect_err(|error| tracing::error!(%error, "the ledger could not be audited"))?;
    match breaches {
        None => {}
        Some(breaches) if breaches.is_empty() => tracing::info!("the ledger's books are in order"),
        Some(breaches) => {
            for breach in breaches {
                let orgs: Vec<String> = breach.orgs.iter().map(ToString::to_string).collect();
                tracing::error!(
                    check = breach.check,
                    rows = breach.rows,
                    orgs = orgs.join(" "),
                    "an invariant of the ledger is broken: 'tollgate audit' shows each row"
                );
            }
        }
    }
    Ok(())
}

/// Sets the gauges to the newest result, which stays until the next audit has finished.
pub(super) async fn show_result(database: &Database) -> Result<(), StoreError> {
    match database.audit_result().await? {
        Some(result) => {
            let rows = result.breaches.iter().map(|(check, rows)| (check.as_str(), *rows));
            show(Some((result.ended_at.unix_timestamp() as f64, result.took)), rows);
        }
        None => show(None, [].into_iter()),
    }
    Ok(())
}

fn show<'a>(ended: Option<(f64, Duration)>, breaches: impl Iterator<Item = (&'a str, u64)> + Clone) {
    let (at, took) = ended.unwrap_or_default();
    metrics::gauge!(m::AUDIT_TIMESTAMP).set(at);
    metrics::gauge!(m::AUDIT_SECONDS).set(took);
    let known = |name: &str| AUDIT_CHECKS.iter().copied().find(|check| *check == name).unwrap_or(OTHER);
    for check in AUDIT_CHECKS.iter().copied().chain([OTHER]) {
        let rows: u64 = breaches.clone().filter(|(name, _)| known(name) == check).map(|(_, rows)| rows).sum();
        metrics::gauge!(m::AUDIT_BREACHES, "check" => check).set(rows as f64);
    }
}
