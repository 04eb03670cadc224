//! Every metric's name, labels and help text. Label values come from closed sets; no tenant ever is a label.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Requests of the data plane by route, status and error code.
pub const REQUESTS: &str = "tollgate_requests_total";
/// Time from a request's head to its answer, by route.
pub const REQUEST_SECONDS: &str = "tollgate_request_seconds";
/// The part of a create's time that was not spent waiting for the upstream.
pub const OVERHEAD_SECONDS: &str = "tollgate_create_overhead_seconds";
/// Calls to the upstream by backend, call and outcome.
pub const UPSTREAM_CALLS: &str = "tollgate_upstream_calls_total";
/// Time of a call to the upstream, by backend and call.
pub const UPSTREAM_SECONDS: &str = "tollgate_upstream_seconds";
/// The upstream answered what only the operator can mend, by backend and kind.
pub const UPSTREAM_ALARMS: &str = "tollgate_upstream_alarms_total";
/// State of a breaker by backend and call: 0 closed, 1 probing, 2 open.
pub const UPSTREAM_BREAKER: &str = "tollgate_upstream_breaker_state";
/// Calls that were not made, by backend, call and reason: the breaker was open, or there was no room.
pub const UPSTREAM_REFUSED: &str = "tollgate_upstream_refused_total";
/// Calls under way, by backend and call.
pub const UPSTREAM_IN_FLIGHT: &str = "tollgate_upstream_in_flight";
/// Holds granted.
pub const HOLDS_GRANTED: &str = "tollgate_holds_granted_total";
/// Steps of holds by kind and whether they changed anything.
pub const STEPS: &str = "tollgate_hold_steps_total";
/// Credits charged to tenants.
pub const CREDITS_CONSUMED: &str = "tollgate_credits_consumed_total";
/// Charges whose figure was not simply the upstream's last word.
pub const FLAGGED_CHARGES: &str = "tollgate_flagged_charges_total";
/// Charges above their hold.
pub const OVERRUNS: &str = "tollgate_overruns_total";
/// Credits the platform lost or may have lost.
pub const PLATFORM_LOSS: &str = "tollgate_platform_loss_credits_total";
/// Two creates got one upstream task id.
pub const DUPLICATE_TASKS: &str = "tollgate_duplicate_upstream_tasks_total";
/// HELD rows nobody worked on, released by the sweep.
pub const HOLDS_SWEPT: &str = "tollgate_holds_swept_total";
/// Thresholds that budgets reached, by threshold: a percentage from 1 to 100.
pub const BUDGET_EVENTS: &str = "tollgate_budget_events_total";
/// Organisations that fell below the balance somebody wants to know of.
pub const LOW_BALANCE_EVENTS: &str = "tollgate_low_balance_events_total";
/// Time of a ledger call, by call.
pub const LEDGER_CALL_SECONDS: &str = "tollgate_ledger_call_seconds";
/// Items in a ledger call, by call.
pub const LEDGER_BATCH_ITEMS: &str = "tollgate_ledger_batch_items";
/// Ledger calls that failed and were repeated or split, by call.
pub const LEDGER_CALL_FAILURES: &str = "tollgate_ledger_call_failures_total";
/// Tasks in each open state, over all organisations.
pub const OPEN_HOLDS: &str = "tollgate_open_holds";
/// Credits held in each open state, over all organisations.
pub const HELD_CREDITS: &str = "tollgate_held_credits";
/// How long past its time the oldest due poll is.
pub const RECONCILER_LAG_SECONDS: &str = "tollgate_reconciler_lag_seconds";
/// Age of the oldest doubt.
pub const OLDEST_DOUBT_SECONDS: &str = "tollgate_oldest_doubt_seconds";
/// Tasks that came to light after their end.
pub const LATE_EVIDENCE: &str = "tollgate_late_evidence_total";
/// What was booked above or below what the upstream reported, for tasks that ended in the last day, by account.
pub const DRIFT_CREDITS: &str = "tollgate_drift_credits";
/// Connections of the pool, by state.
pub const POOL_CONNECTIONS: &str = "tollgate_pool_connections";
/// Requests refused by a rate limit, by level.
pub const LIMITED: &str = "tollgate_rate_limited_total";
/// Fetches of identity providers' keys by outcome.
pub const JWKS_FETCHES: &str = "tollgate_jwks_fetches_total";
/// The price book in force.
pub const PRICE_BOOK_VERSION: &str = "tollgate_price_book_version";
/// Requests being answered.
pub const IN_FLIGHT: &str = "tollgate_requests_in_flight";

/// Buckets for every duration, in seconds.
pub const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
/// Buckets for the size of a batch.
pub const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Registers the help texts with the recorder.
pub fn describe() {
    describe_counter!(REQUESTS, "Requests of the data plane");
    describe_histogram!(REQUEST_SECONDS, "Time from a request's head to its answer");
    describe_histogram!(OVERHEAD_SECONDS, "A create's time without the wait for the upstream");
    describe_counter!(UPSTREAM_CALLS, "Calls to the upstream");
    describe_histogram!(UPSTREAM_SECONDS, "Time of a call to the upstream");
    describe_counter!(UPSTREAM_ALARMS, "Upstream answers that only the operator can mend");
    describe_gauge!(UPSTREAM_BREAKER, "Breakers of the upstream: 0 closed, 1 probing, 2 open");
    describe_counter!(UPSTREAM_REFUSED, "Calls to the upstream that were not made");
    describe_gauge!(UPSTREAM_IN_FLIGHT, "Calls to the upstream under way");
    describe_counter!(HOLDS_GRANTED, "Holds granted");
    describe_counter!(STEPS, "Steps of holds");
    describe_counter!(CREDITS_CONSUMED, "Credits charged to tenants");
    describe_counter!(FLAGGED_CHARGES, "Charges whose figure was not the upstream's last word");
    describe_counter!(OVERRUNS, "Charges above their hold");
    describe_counter!(PLATFORM_LOSS, "Credits the platform lost or may have lost");
    describe_counter!(DUPLICATE_TASKS, "Creates that got another create's upstream task id");
    describe_counter!(HOLDS_SWEPT, "Holds nobody worked on, released by the sweep");
    describe_counter!(BUDGET_EVENTS, "Thresholds that budgets reached");
    describe_counter!(LOW_BALANCE_EVENTS, "Organisations that fell below their low-balance threshold");
    describe_histogram!(LEDGER_CALL_SECONDS, "Time of a ledger call");
    describe_histogram!(LEDGER_BATCH_ITEMS, "Items in a ledger call");
    describe_counter!(LEDGER_CALL_FAILURES, "Ledger calls that failed");
    describe_gauge!(OPEN_HOLDS, "Unfinished tasks by state");
    describe_gauge!(HELD_CREDITS, "Credits held by state of their task");
    describe_gauge!(RECONCILER_LAG_SECONDS, "How long past its time the oldest due poll is");
    describe_gauge!(OLDEST_DOUBT_SECONDS, "How long the oldest doubt has lasted");
    describe_counter!(LATE_EVIDENCE, "Tasks that came to light after their end");
    describe_gauge!(DRIFT_CREDITS, "Booked above or below what the upstream reported, tasks of the last day");
    describe_gauge!(POOL_CONNECTIONS, "Connections of the database pool");
    describe_counter!(LIMITED, "Requests refused by a rate limit");
    describe_counter!(JWKS_FETCHES, "Fetches of identity providers' keys");
    describe_gauge!(PRICE_BOOK_VERSION, "Version of the price book in force");
    describe_gauge!(IN_FLIGHT, "Requests being answered");
}
