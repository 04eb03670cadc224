//! The periodic audit: runs it when it is due and nobody else does, and shows its newest result.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::pause;
use crate::ids::GatewayId;
use crate::metrics as m;
use crate::store::{AUDIT_CHECKS, Database, LedgerError};

/// How often it is looked whether it is due, and what the newest result is.
const LOOK: Duration = Duration::from_secs(5);

/// A check that only a newer gateway knows.
const OTHER: &str = "other";

/// Runs until `stop`. `every` is how far apart audits begin; none: this gateway runs none, but still shows the results
/// of others.
pub async fn audit(database: Database, gateway: GatewayId, every: Option<Duration>, stop: CancellationToken) {
    loop {
        // First what is known: an audit takes its time, and until its end the last one's word stands.
        if let Err(error) = show_result(&database).await {
            tracing::warn!(%error, "cannot read the result of the last audit");
        }
        if let Some(every) = every {
            run(&database, gateway, every, &stop).await;
        }
        if !pause(&stop, LOOK).await {
            return;
        }
    }
}

async fn run(database: &Database, gateway: GatewayId, every: Duration, stop: &CancellationToken) {
    match database.audit_if_due(gateway, every, stop).await {
        Ok(None) => {}
        Ok(Some(breaches)) if breaches.is_empty() => tracing::info!("the ledger's books are in order"),
        Ok(Some(breaches)) => {
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
        Err(error) => tracing::error!(%error, "the ledger could not be audited"),
    }
}

async fn show_result(database: &Database) -> Result<(), LedgerError> {
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
