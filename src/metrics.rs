//! Every metric: its name, labels and help text. Label values come from closed sets or from the configuration. No
//! organisation is a label, so that the number of series does not grow with them; their figures are in the database.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// The type of a metric in Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at each start of a gateway.
    Counter,
    Gauge,
    Histogram,
}

#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

/// Defines a constant for each name, and one list of all metrics.
macro_rules! metrics {
    ($($kind:ident $id:ident = $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $id: &str = $name;)*

        pub const ALL: &[Metric] = &[
            $(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help },)*
        ];
    };
}

metrics! {
    // Connections of the listeners.
    Gauge CONNECTIONS = "tollgate_connections" ["listener", "of"] "Open connections of a listener; of strangers: those on which no valid credentials were seen yet; of returning: such connections from networks where valid ones were seen lately; of known: those of organisations and operators. A request that comes through a trusted proxy over HTTP/1.1 counts as one of its caller";
    Counter CONNECTIONS_REFUSED = "tollgate_connections_refused_total" ["listener"] "New connections that were closed because there was no room for them";
    Counter CONNECTIONS_CLOSED_FOR_ROOM = "tollgate_connections_closed_for_room_total" ["listener"] "Idle connections that were closed to make room for new ones";
    Gauge HEADS_BYTES = "tollgate_heads_bytes" ["listener", "of"] "Bytes in the heads of requests in progress; of strangers: those that have shown no valid credentials yet; of returning: such requests from networks where valid ones were seen lately; of known: those of organisations and operators";
    Counter REQUESTS_WITHOUT_ROOM = "tollgate_requests_without_room_total" ["listener"] "Requests that were answered 503 because their network, organisation or operator had its share of connections or of heads already";
    Counter CONNECTIONS_STALLED = "tollgate_connections_stalled_total" ["listener"] "Connections that were closed because the client did not read its answers";

    // Bytes of bodies and answers.
    Gauge BYTES_UNDER_WAY = "tollgate_bytes_under_way" [] "Bytes of bodies and answers in memory, with the copies that are made of them";
    Gauge BYTES_UNDER_WAY_LIMIT = "tollgate_bytes_under_way_limit" [] "The most bytes of bodies and answers that may be in memory";
    Counter BYTES_REFUSED = "tollgate_bytes_refused_total" [] "Bodies and answers for which there was no room";
    Gauge BULK_WORKERS = "tollgate_bulk_workers_busy" [] "Threads that work on bodies and answers of more than 64 KiB";
    Gauge ORGS_PACED = "tollgate_organisations_paced" [] "Organisations whose tasks are polled later because they have had too many bytes of long answers";

    // The data plane. A status of 499 is a client that left.
    Counter REQUESTS = "tollgate_requests_total" ["route", "status", "code"] "Requests to the data plane";
    Histogram REQUEST_SECONDS = "tollgate_request_seconds" ["route"] "Time from the head of a request to its answer";
    Histogram OVERHEAD_SECONDS = "tollgate_request_overhead_seconds" ["route"] "The gateway's own part of the time of answered requests: without waiting for the upstream and for the client's body";
    Gauge IN_FLIGHT = "tollgate_requests_in_flight" [] "Requests being answered";
    Counter LIMITED = "tollgate_rate_limited_total" ["level"] "Requests refused by a rate limit";
    Counter REPLAYS = "tollgate_idempotent_replays_total" [] "Creates that were answered with the stored answer of an earlier create with the same idempotency key";
    Counter CACHE_LOOKUPS = "tollgate_cache_lookups_total" ["cache", "result"] "Look-ups in a cache by result; stale: found, and used because the database is unavailable";
    Gauge CACHE_ENTRIES = "tollgate_cache_entries" ["cache"] "Entries in a cache, approximately";
    Counter ADMIN_REQUESTS = "tollgate_admin_requests_total" ["method", "status"] "Requests to the management API";
    Histogram ADMIN_SECONDS = "tollgate_admin_request_seconds" ["method"] "Time of a request to the management API";

    // The upstream.
    Counter UPSTREAM_CALLS = "tollgate_upstream_calls_total" ["backend", "call", "outcome"] "Calls to the upstream";
    Histogram UPSTREAM_SECONDS = "tollgate_upstream_seconds" ["backend", "call"] "Duration of a call to the upstream";
    Counter UPSTREAM_ALARMS = "tollgate_upstream_alarms_total" ["backend", "kind"] "Upstream answers that need an operator, by kind: the master key was rejected, the account is exhausted, or the configured URL has no such endpoint";
    Gauge UPSTREAM_BREAKER = "tollgate_upstream_breaker_state" ["backend", "call"] "State of a breaker: 0 closed, 1 probing, 2 open";
    Gauge UPSTREAM_BREAKERS_OF_ORGS = "tollgate_upstream_breakers_of_organisations" ["backend", "call"] "Organisations whose own breaker is not closed, because their calls fail and those of others do not";
    Counter UPSTREAM_REFUSED = "tollgate_upstream_refused_total" ["backend", "call", "reason"] "Calls to the upstream that were not made, by reason: the breaker was open, or too many calls were in flight";
    Gauge UPSTREAM_IN_FLIGHT = "tollgate_upstream_in_flight" ["backend", "call"] "Calls to the upstream in flight";
    Counter UPSTREAM_TASKS_ENDED = "tollgate_upstream_tasks_ended_total" ["backend", "end"] "Tasks that the upstream reported as ended, by how: succeeded, failed; counted when the end is durable";
    Gauge UPSTREAM_ACCOUNT_USABLE = "tollgate_upstream_account_usable" ["backend", "account"] "1: the account gets new tasks; 0: it gets none, because its key was rejected or it is exhausted";

    // Holds, as far as this gateway changes them.
    Counter HOLDS_GRANTED = "tollgate_holds_granted_total" [] "Holds granted";
    Counter HOLDS_REFUSED = "tollgate_holds_refused_total" ["reason"] "Reservations refused, or not answered in time";
    Counter STEPS = "tollgate_hold_steps_total" ["kind", "applied"] "Steps of holds by kind; applied: whether the step changed anything";
    Histogram HOLD_SECONDS = "tollgate_hold_seconds" ["end"] "Age of a hold when it ended";
    Histogram SETTLE_LAG_SECONDS = "tollgate_settle_lag_seconds" [] "Time from the upstream's report that a task has ended to the durable record of its end";
    Counter HOLDS_SWEPT = "tollgate_holds_swept_total" [] "Holds that no gateway worked on and the sweep released";
    Counter DUPLICATE_TASKS = "tollgate_duplicate_upstream_tasks_total" [] "Creates whose upstream task id belonged to another create already";
    Counter LATE_EVIDENCE = "tollgate_late_evidence_total" [] "Tasks for which evidence came after their end";

    // Credits, as far as this gateway moves them.
    Counter CREDITS_GRANTED = "tollgate_credits_granted_total" [] "Credits granted to organisations";
    Counter CREDITS_ADJUSTED = "tollgate_credits_adjusted_total" ["direction"] "Credits of adjustments by operators, by direction";
    Counter CREDITS_EXPIRED = "tollgate_credits_expired_total" [] "Credits taken back because their grant expired";
    Counter CREDITS_HELD = "tollgate_credits_held_total" [] "Credits of granted holds";
    Counter CREDITS_CONSUMED = "tollgate_credits_consumed_total" [] "Credits charged to organisations";
    Counter CREDITS_RELEASED = "tollgate_credits_released_total" [] "Credits of holds that were given back: the whole hold, or the part above the charge";
    Counter CREDITS_OVERRUN = "tollgate_credits_overrun_total" [] "Credits charged above their hold";
    Counter OVERRUNS = "tollgate_overruns_total" [] "Charges above their hold";
    Counter FLAGGED_CHARGES = "tollgate_flagged_charges_total" [] "Charges by a figure that an operator should look at: missing, implausible, changed or above the price";
    Counter PLATFORM_LOSS = "tollgate_platform_loss_credits_total" ["kind"] "Credits that the platform lost or may have lost, by kind";
    Counter BUDGET_EVENTS = "tollgate_budget_events_total" ["threshold"] "Thresholds that budgets reached; the label is the percentage, rounded down to tens";
    Counter LOW_BALANCE_EVENTS = "tollgate_low_balance_events_total" [] "Times an organisation fell below its low-balance threshold";

    // The ledger as a whole: every gateway reports the same figures.
    Gauge OPEN_HOLDS = "tollgate_open_holds" ["state"] "Unfinished tasks by state, over all organisations";
    Gauge HELD_CREDITS = "tollgate_held_credits" ["state"] "Held credits by the state of their task, over all organisations";
    Gauge OLDEST_HOLD_SECONDS = "tollgate_oldest_hold_seconds" ["state"] "Age of the oldest unfinished task in a state; 0: no such task";
    Gauge OLDEST_DOUBT_SECONDS = "tollgate_oldest_doubt_seconds" [] "How long the oldest doubt has lasted; 0: no doubt";
    Gauge STOPPED_ORGANISATIONS = "tollgate_stopped_organisations" [] "Organisations whose creates are stopped because of what their tasks cost the platform";
    Gauge LONG_RUNNING_TASKS = "tollgate_long_running_tasks" ["backend"] "Tasks that have been running for more than two hours, over all organisations";
    Gauge OUT_OF_CREDIT = "tollgate_organisations_out_of_credit" [] "Organisations that once had credits, and whose credits and overdraft do not pay for the cheapest task any more";
    Gauge RECONCILER_LAG_SECONDS = "tollgate_reconciler_lag_seconds" [] "How long the oldest due poll is overdue";
    Gauge DRIFT_CREDITS = "tollgate_drift_credits" ["account", "direction"] "Difference of what was booked from what the upstream reported, for the tasks of the last day; other: accounts that are no longer configured";
    Gauge AUDIT_BREACHES = "tollgate_audit_breaches" ["check"] "Rows that broke an invariant of the ledger in the last audit; other: checks that this gateway does not know";
    Gauge AUDIT_TIMESTAMP = "tollgate_audit_timestamp_seconds" [] "Unix time at which the last audit ended; 0: there was none";
    Gauge AUDIT_SECONDS = "tollgate_audit_seconds" [] "Duration of the last audit";

    // The database.
    Gauge DATABASE_UP = "tollgate_database_up" [] "1: the last check of the database succeeded; 0: it failed";
    Counter DATABASE_ERRORS = "tollgate_database_errors_total" ["kind"] "Failed queries outside the ledger's lanes, by kind of error";
    Histogram QUERY_SECONDS = "tollgate_database_query_seconds" [] "Time of a query outside the ledger's lanes, including its wait for a connection";
    Counter PRIMARY_CHANGES = "tollgate_database_primary_changes_total" [] "Times this gateway switched to another primary";
    Gauge POOL_CONNECTIONS = "tollgate_pool_connections" ["pool", "state"] "Connections of a pool by state";
    Gauge POOL_MAX_CONNECTIONS = "tollgate_pool_max_connections" ["pool"] "Maximum number of connections of a pool";
    Histogram LEDGER_CALL_SECONDS = "tollgate_ledger_call_seconds" ["call"] "Duration of a successful call of a ledger lane, which writes one batch";
    Histogram LEDGER_BATCH_ITEMS = "tollgate_ledger_batch_items" ["call"] "Items in the batch of a call of a ledger lane";
    Counter LEDGER_CALL_FAILURES = "tollgate_ledger_call_failures_total" ["call"] "Calls of a ledger lane that failed or timed out, and were repeated or split";
    Gauge LEDGER_SIDE_ORGS = "tollgate_ledger_side_lane_organisations" [] "Organisations whose reservations and steps wait in the side lanes, because their rows are locked or the database refuses them";
    Counter LEDGER_SETTINGS_ASIDE = "tollgate_ledger_set_aside_total" ["call"] "Items that the database refused again and again for a reason that nobody foresaw; reserve: the create was refused, transition: the step is tried again each minute";
    Gauge LEDGER_SET_ASIDE = "tollgate_ledger_set_aside" [] "Steps that are set aside now; the credits of their holds stay held";
    Gauge LEDGER_QUEUE_ITEMS = "tollgate_ledger_queue_items" ["call"] "Items that wait in the ledger's lanes or are being written";

    // This gateway among the others, its certificates, traces and log.
    Gauge LEASE_HELD = "tollgate_lease_held" [] "1: this gateway holds its lease; 0: it does not, and sends nothing";
    Gauge LIVE_GATEWAYS = "tollgate_live_gateways" [] "Gateways with a live lease, this one included";
    Gauge REVOCATION_EPOCH = "tollgate_revocation_epoch" [] "Epoch of credentials that this gateway has read: rises when keys, users or organisations change";
    Gauge REVOCATION_LAG_SECONDS = "tollgate_revocation_lag_seconds" [] "Time since this gateway last read the epoch of credentials";
    Gauge PRICE_BOOK_VERSION = "tollgate_price_book_version" [] "Version of the price book in force; 0: no book";
    Counter JWKS_FETCHES = "tollgate_jwks_fetches_total" ["outcome"] "Fetches of identity providers' keys";
    Counter JWKS_UNKNOWN_KEYS = "tollgate_jwks_unknown_keys_total" [] "Tokens that name a key which is not in the known set of their identity provider: a new key, or a wrong token";
    Gauge TLS_EXPIRY = "tollgate_tls_certificate_expiry_timestamp_seconds" ["listener"] "Unix time at which the certificate in use expires";
    Counter TLS_RELOADS = "tollgate_tls_reloads_total" ["listener", "outcome"] "Times the files of the certificate had changed and were read again, by outcome";
    Counter TLS_FAILURES = "tollgate_tls_handshake_failures_total" ["listener"] "Failed TLS handshakes";
    Counter TRACE_SPANS = "tollgate_trace_spans_total" ["outcome"] "Spans by outcome: exported, dropped because the queue was full, or failed at the collector";
    // Background jobs. The label is not called "job": Prometheus gives that name to what it scrapes.
    Counter JOB_RUNS = "tollgate_job_runs_total" ["job_name", "outcome"] "Runs of background jobs; timed out: the run was given up at its deadline, or the database did not answer in time";
    Histogram JOB_SECONDS = "tollgate_job_seconds" ["job_name"] "Time of a run of a background job";
    Gauge JOB_LAST_SUCCESS = "tollgate_job_last_success_timestamp_seconds" ["job_name"] "When a background job last succeeded, Unix time; before its first success, when it was started";
    Gauge JOB_STUCK_AFTER = "tollgate_job_stuck_after_seconds" ["job_name"] "A background job that has not succeeded for so long counts as stuck: ten of its intervals, at least a minute, and its deadline";
    Counter LOG_LINES_DROPPED = "tollgate_log_lines_dropped_total" [] "Log lines that were dropped, because too many waited or standard error could not be written";
    Gauge BUILD_INFO = "tollgate_build_info" ["version"] "Always 1; the label is the version of this gateway";
}

/// Buckets for every duration, in seconds.
pub const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
/// Buckets for the age of holds, in seconds: a video takes minutes, a doubt lasts up to a day.
pub const AGE_BUCKETS: &[f64] =
    &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0];
/// Buckets for the number of items in a batch.
pub const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Registers the help texts with the recorder.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        for Metric { name, kind, help, .. } in ALL {
            assert!(name.starts_with("tollgate_"), "{name}");
            assert_eq!(
                *kind == Kind::Counter,
                name.ends_with("_total"),
                "{name}: counters end so, and only they"
            );
            let unit = ["_seconds", "_items"].iter().any(|unit| name.ends_with(unit));
            assert!(*kind != Kind::Histogram || unit, "{name}: the unit chooses the buckets");
            assert!(!help.is_empty() && !help.ends_with('.'), "{name}: {help}");
        }
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "each has a name of its own");
    }
}
