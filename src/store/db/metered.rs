//! Metrics of queries and of the pools' connections.

use std::time::Instant;

use sqlx::postgres::PgPool;

use super::error::NoPrimary;
use crate::clock::Clock;
use crate::metrics as m;

/// The kinds of failed queries: label values of one counter.
const ERRORS: [&str; 8] =
    ["timeout", "connection", "no primary", "statement timeout", "locked", "conflict", "input", "other"];

/// Sets the counters of queries to 0, because an alarm on an increase misses the first error of a counter that did not
/// exist.
pub(in crate::store) fn register_queries() {
    for kind in ERRORS {
        metrics::counter!(m::DATABASE_ERRORS, "kind" => kind).increment(0);
    }
    drop(metrics::histogram!(m::QUERY_SECONDS));
}

/// Counts a query that has ended.
pub(in crate::store) fn query(begun: Instant, error: Option<&sqlx::Error>) {
    metrics::histogram!(m::QUERY_SECONDS).record(Clock.since(begun));
    if let Some(error) = error {
        metrics::counter!(m::DATABASE_ERRORS, "kind" => kind(error)).increment(1);
    }
}

fn kind(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::PoolTimedOut => "timeout",
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            "connection"
        }
        sqlx::Error::Configuration(why) if why.downcast_ref::<NoPrimary>().is_some() => "no primary",
        sqlx::Error::Database(error) => match error.code().as_deref().unwrap_or_default() {
            "57014" => "statement timeout",
            "55P03" | "40001" | "40P01" => "locked",
            code if code.starts_with("23") || code.starts_with("TG") => "conflict",
            code if code.starts_with("22") || code.starts_with("54") => "input",
            // SQLSTATE classes: shut down, starting up, too many connections, not authorised
            code if code.starts_with("57P") || code.starts_with("08") || code.starts_with("53") => {
                "connection"
            }
            _ => "other",
        },
        _ => "other",
    }
}

/// Sets the gauges of a pool's connections.
pub(in crate::store) fn pool(name: &'static str, pool: &PgPool) {
    let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
    metrics::gauge!(m::POOL_CONNECTIONS, "pool" => name, "state" => "used")
        .set(pool.size().saturating_sub(idle));
    metrics::gauge!(m::POOL_CONNECTIONS, "pool" => name, "state" => "idle").set(idle);
    metrics::gauge!(m::POOL_MAX_CONNECTIONS, "pool" => name).set(pool.options().get_max_connections());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_of_a_known_kind() {
        for error in [sqlx::Error::PoolTimedOut, sqlx::Error::RowNotFound, NoPrimary("x".into()).into()] {
            assert!(ERRORS.contains(&kind(&error)));
        }
    }
}
