//! Gauges of the ledger as a whole. Every gateway shows the same values.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::credits::Credits;
use crate::metrics as m;
use crate::order;
use crate::store::{Database, State, StoreError};
use crate::upstream::Upstream;

/// The label value for accounts that are not configured any more: the database has any number of their names, and a
/// label must have a closed set of values.
const OTHER: &str = "other";

/// A task that has been running for longer is counted as one that may never end: a video takes minutes.
const LONG: Duration = Duration::from_secs(2 * 3600);

/// Counts the open holds, the tasks that run for hours, and the organisations that are stopped or out of credit, and measures how late polls are and how old doubts are.
pub(super) async fn holds(database: &Database) -> Result<(), StoreError> {
    let open = database.open_holds().await?;
    for state in [State::Held, State::Running, State::InDoubt] {
        let holds = open.iter().find(|holds| holds.state == state);
        let (count, credits) = holds.map_or((0, 0), |holds| (holds.count, holds.credits.get()));
        let oldest = holds.map_or(Duration::ZERO, |holds| holds.oldest);
        metrics::gauge!(m::OPEN_HOLDS, "state" => state.as_str()).set(count as f64);
        metrics::gauge!(m::HELD_CREDITS, "state" => state.as_str()).set(credits as f64);
        metrics::gauge!(m::OLDEST_HOLD_SECONDS, "state" => state.as_str()).set(oldest);
    }
    let long = database.running_for(LONG).await?;
    for backend in Upstream::names() {
        let tasks = long.iter().find(|(name, _)| **name == *backend).map_or(0, |(_, tasks)| *tasks);
        metrics::gauge!(m::LONG_RUNNING_TASKS, "backend" => backend.to_string()).set(tasks as f64);
    }
    let poor = database.out_of_credit(order::MIN_SECONDS).await?;
    metrics::gauge!(m::OUT_OF_CREDIT).set(poor as f64);
    metrics::gauge!(m::RECONCILER_LAG_SECONDS).set(database.poll_lag_seconds().await?);
    metrics::gauge!(m::OLDEST_DOUBT_SECONDS).set(database.oldest_doubt_seconds().await?);
    metrics::gauge!(m::STOPPED_ORGANISATIONS).set(database.stopped_organisations().await? as f64);
    Ok(())
}

/// Measures the drift of these accounts with the vendor.
pub(super) async fn drift(database: &Database, accounts: &[String]) -> Result<(), StoreError> {
    // The gauge of an account without drift must go back to 0.
    let names = accounts.iter().map(String::as_str).chain([OTHER]);
    let mut drift: BTreeMap<&str, [Credits; 2]> = names.map(|name| (name, [Credits::ZERO; 2])).collect();
    for (account, above, below) in database.drift_of_the_day().await? {
        let name = if drift.contains_key(&*account) { &*account } else { OTHER };
        if let Some(shown) = drift.get_mut(name) {
            *shown = [shown[0].checked_add(above), shown[1].checked_add(below)]
                .map(|sum| sum.unwrap_or(Credits::new(i64::MAX)));
        }
    }
    for (account, credits) in drift {
        for (direction, credits) in ["above", "below"].into_iter().zip(credits) {
            metrics::gauge!(m::DRIFT_CREDITS, "account" => account.to_owned(), "direction" => direction)
                .set(credits.get() as f64);
        }
    }
    Ok(())
}
