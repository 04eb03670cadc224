//! How the platform is doing: what needs a person, which gateways live, and what waits in the one that answers.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

use super::call::{ApiCall, ReadCall};
use super::extract::Query;
use super::page::{Page, PageQuery};
use super::problem::Problem;
use crate::ids::GatewayId;
use crate::metrics as m;
use crate::store::{GatewayInfo, Health};

/// An account with the vendor, as the answering gateway sees it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountHealth {
    backend: &'static str,
    account: String,
    /// Whether the account gets new tasks. It gets none for some minutes after the vendor refused its key, or said that it has no
    /// credits left.
    usable: bool,
}

/// What needs a person.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PlatformHealth {
    #[serde(flatten)]
    shared: Health,
    /// The accounts with the vendor, as the answering gateway sees them.
    accounts: Vec<AccountHealth>,
}

/// Show what needs a person
///
/// The verdict of the newest audit, doubts, organisations whose creates are stopped, live gateways, and accounts that the vendor
/// refuses. One cheap statement: it can be asked often.
#[utoipa::path(
    get, path = "/admin/v1/health", tag = "platform",
    responses((status = 200, description = "The state of the platform", body = PlatformHealth)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_health(call: ReadCall) -> Result<Json<PlatformHealth>, Problem> {
    let ApiCall { database, vendor, .. } = call;
    let accounts = vendor.upstream.usable_accounts().into_iter();
    let accounts = accounts.map(|(backend, account, usable)| AccountHealth {
        backend,
        account: account.to_string(),
        usable,
    });
    Ok(Json(PlatformHealth { shared: database.health().await?, accounts: accounts.collect() }))
}

/// List gateways
///
/// The gateways of the last day with their leases, the one that was started last first. A gateway whose lease has ended counts as
/// dead: the others end its work.
#[utoipa::path(
    get, path = "/admin/v1/gateways", tag = "platform",
    responses((status = 200, description = "A page of gateways", body = Page<GatewayInfo>)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn list_gateways(
    call: ReadCall<(), Query<PageQuery>>,
) -> Result<Json<Page<GatewayInfo>>, Problem> {
    let ApiCall { database, input: Query(query), .. } = call;
    let slice = query.limit.after(query.cursor.as_deref())?;
    let gateways = database.gateways(slice).await?;
    Ok(Page::of(gateways, query.limit, |gateway| gateway.gateway_id))
}

/// A pool of connections to the database.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PoolState {
    /// What the pool is for.
    pool: String,
    /// Connections that run a statement.
    used: i64,
    /// Connections that are open and free.
    idle: i64,
    /// The most connections of the pool.
    most: i64,
}

/// Work that waits in a gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QueueState {
    /// What waits: `reserve` (creates that wait for their hold), `transition` (steps of holds), `set aside` (steps that the database
    /// refused again and again), `side lanes` (organisations whose rows are locked).
    queue: String,
    waiting: i64,
}

/// Calls to the vendor.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CallState {
    backend: String,
    /// Which call it is: `create` or `status`.
    call: String,
    in_flight: i64,
    /// `closed`: calls are made; `probing`: single calls are made; `open`: none is made, because too many failed.
    breaker: &'static str,
    /// Organisations whose own breaker is not closed.
    organisations_refused: i64,
}

/// What goes on in one gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GatewayState {
    gateway_id: GatewayId,
    /// The version of its program.
    version: &'static str,
    /// Whether it holds its lease: without the lease it sends nothing.
    holds_lease: bool,
    pools: Vec<PoolState>,
    queues: Vec<QueueState>,
    calls: Vec<CallState>,
    /// How long the oldest due poll is overdue, in seconds.
    polls_late_seconds: i64,
}

fn breaker(state: Option<i64>) -> &'static str {
    match state {
        Some(0) | None => "closed",
        Some(1) => "probing",
        Some(_) => "open",
    }
}

/// Show the answering gateway
///
/// Pools, queues and calls to the vendor of the gateway that answers: behind a load balancer each call may reach another one. The
/// same figures are in its metrics.
#[utoipa::path(
    get, path = "/admin/v1/gateways/this", tag = "platform",
    responses((status = 200, description = "The state of the gateway that answers", body = GatewayState)),
    security(("bearer" = ["operator", "operator-read"]))
)]
pub(super) async fn show_this_gateway(call: ReadCall) -> Json<GatewayState> {
    let ApiCall { figures, .. } = call;
    let reading = figures.read();
    let one = |metric, label: (&str, &str), and: (&str, &str)| {
        let mut found = reading.of(metric);
        found
            .find(|series| series.label(label.0) == label.1 && series.label(and.0) == and.1)
            .map(|found| found.value)
    };
    let pools = reading.of(m::POOL_MAX_CONNECTIONS).map(|series| {
        let pool = series.label("pool");
        let connections =
            |state| one(m::POOL_CONNECTIONS, ("pool", &pool), ("state", state)).unwrap_or_default();
        PoolState { used: connections("used"), idle: connections("idle"), most: series.value, pool }
    });
    let queues = reading.of(m::LEDGER_QUEUE_ITEMS).map(|series| (series.label("call"), series.value)).chain(
        [("set aside", m::LEDGER_SET_ASIDE), ("side lanes", m::LEDGER_SIDE_ORGS)]
            .into_iter()
            .filter_map(|(queue, metric)| Some((queue.to_owned(), reading.of(metric).next()?.value))),
    );
    let calls = reading.of(m::UPSTREAM_IN_FLIGHT).map(|series| {
        let (backend, call) = (series.label("backend"), series.label("call"));
        let of = |metric| one(metric, ("backend", &backend), ("call", &call));
        CallState {
            in_flight: series.value,
            breaker: breaker(of(m::UPSTREAM_BREAKER)),
            organisations_refused: of(m::UPSTREAM_BREAKERS_OF_ORGS).unwrap_or_default(),
            backend,
            call,
        }
    });
    let (mut pools, mut calls): (Vec<_>, Vec<_>) = (pools.collect(), calls.collect());
    pools.sort_by(|one, other| one.pool.cmp(&other.pool));
    calls.sort_by(|one, other| (&one.backend, &one.call).cmp(&(&other.backend, &other.call)));
    Json(GatewayState {
        gateway_id: figures.lease.gateway(),
        version: env!("CARGO_PKG_VERSION"),
        holds_lease: figures.lease.holds(),
        pools,
        queues: queues.map(|(queue, waiting)| QueueState { queue, waiting }).collect(),
        calls,
        polls_late_seconds: reading.of(m::RECONCILER_LAG_SECONDS).next().map_or(0, |lag| lag.value),
    })
}
