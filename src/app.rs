//! Builds every part once and runs them; nothing else does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::callers::Authenticator;
use crate::access::jwks::KeySets;
use crate::access::proxies::TrustedProxies;
use crate::admin::api::Api;
use crate::admin::{Gauges, Operations, router};
use crate::api_key::PresentedKey;
use crate::background::{self, Pace, Watcher};
use crate::clock::Clock;
use crate::config::{BadPair, Config, DatabaseConfig, Tls, ms};
use crate::handlers::Handlers;
use crate::ids::GatewayId;
use crate::layers::forward::Forward;
use crate::layers::replay::Replay;
use crate::layers::reserve::Reserve;
use crate::metrics as m;
use crate::poll::Poller;
use crate::price_cache::Prices;
use crate::rate_limits::RateLimits;
use crate::secret::Secret;
use crate::server::{BindError, Certificate, ServeOptions, bind, serve};
use crate::stack::{Parts, data_plane};
use crate::store::{Actor, Database, LaneSettings, Lease, Ledger, LedgerError};
use crate::telemetry::{BadTelemetry, Tracing};
use crate::upstream::{BadUpstream, Upstream};

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The ledger cannot be used.
    #[error("the ledger cannot be used: {0}")]
    Ledger(#[from] LedgerError),
    /// An upstream is not configured as it should be.
    #[error(transparent)]
    Upstream(#[from] BadUpstream),
    /// A listener's certificate cannot be used.
    #[error("{section}.tls: {reason}")]
    Tls { section: &'static str, reason: Box<BadPair> },
    /// Traces cannot be sent as configured.
    #[error(transparent)]
    Telemetry(#[from] BadTelemetry),
    /// Metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(String),
}

/// A gateway that listens, but does not serve yet.
pub struct App {
    config: Config,
    data_listener: TcpListener,
    admin_listener: TcpListener,
    /// Of both listeners, where they have one.
    certificates: [Option<Arc<Certificate>>; 2],
    parts: Parts,
    operations: Operations,
    api: Api,
    ledger: Ledger,
    /// For the lease, the sweep and the reconciler.
    upkeep: Database,
    lease: Arc<Lease>,
    poller: Arc<Poller>,
    watcher: Watcher,
    keys: Arc<Authenticator>,
    tracing: Tracing,
    /// Creates and polls under way: they outlive their clients, and a stop waits for them.
    tasks: TaskTracker,
    /// Tells creates that wait for the vendor.
    stopping: CancellationToken,
    /// Tells load balancers and clients to go elsewhere.
    draining: CancellationToken,
}

/// Connections for what nobody waits for.
const UPKEEP: u32 = 4;

/// The pool that `config` describes.
pub fn database(config: &DatabaseConfig) -> Result<Database, LedgerError> {
    Database::connect_to_primary(&config.servers(), config.max_connections, ms(config.acquire_timeout_ms))
}

fn recorder() -> Result<PrometheusHandle, StartError> {
    // One for the process; a lock, so that gateways that start at once (tests) do not install two.
    static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut recorder = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*recorder {
        return Ok(handle.clone());
    }
    let wrong = |error: metrics_exporter_prometheus::BuildError| StartError::Metrics(error.to_string());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), m::SECONDS_BUCKETS)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Suffix("_items".into()), m::BATCH_BUCKETS)
        })
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full(m::HOLD_SECONDS.into()), m::AGE_BUCKETS)
        })
        .map_err(wrong)?
        .install_recorder()
        .map_err(wrong)?;
    m::describe();
    metrics::gauge!(m::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1);
    Ok(recorder.insert(handle).clone())
}

fn certificate(
    section: &'static str,
    listener: &'static str,
    tls: Option<&Tls>,
) -> Result<Option<Arc<Certificate>>, StartError> {
    let certificate = tls.map(|tls| Certificate::new(listener, tls)).transpose();
    certificate.map_err(|reason| StartError::Tls { section, reason: Box::new(reason) })
}

/// How long the ledger may take to write what is queued, after everything else has stopped. Part of the grace period,
/// unless that is very short.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long each of the last words may take: a database that is silent must not keep a stopped gateway.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

impl App {
    /// Checks the database, binds the listeners and builds every part.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let clock = Clock;
        let metrics = recorder()?;
        let upstream = Arc::new(Upstream::new(&config.upstream, clock)?);
        let certificates = [
            certificate("server", "data", config.server.tls.as_ref())?,
            certificate("admin", "operations", config.admin.tls.as_ref())?,
        ];
        // What keeps the gateway alive and its tasks ending must not queue behind callers.
        let upkeep = database(&DatabaseConfig { max_connections: UPKEEP, ..config.database.clone() })?;
        let database = database(&config.database)?;
        upkeep.find_primary().await?;
        database.find_primary().await?;
        database.check_schema().await?;
        let data_listener =
            bind("the gateway", config.server.listen, "server.listen (demo: --listen)").await?;
        let admin_listener = bind("the operations listener", config.admin.listen, "admin.listen").await?;

        let gateway = GatewayId::generate();
        let tracing = Tracing::new(&config.telemetry, gateway)?;
        let lease = Arc::new(Lease::new(upkeep.clone(), gateway, ms(config.ledger.lease_ms), clock));
        let gateways = lease.renew().await?;
        let keys = Arc::new(Authenticator::new(
            database.clone(),
            KeySets::new(&config.auth, clock),
            &config.auth,
            config.limits.failed_logins_per_minute,
            clock,
        ));
        let prices = Arc::new(Prices::default());
        let mut watcher = Watcher::new(upkeep.clone(), keys.clone(), prices.clone(), clock);
        watcher.look().await?;

        let lanes = LaneSettings {
            profile: config.ledger.profile,
            lanes: config.ledger.lanes,
            max_batch: config.ledger.max_batch,
            queue: config.ledger.queue,
            call_timeout: ms(config.ledger.call_timeout_ms),
            hold_grace: Duration::from_secs(30),
            max_open_tasks: i32::try_from(config.limits.max_open_tasks).unwrap_or(i32::MAX),
        };
        let ledger =
            Ledger::start(database.clone(), gateway, &lanes, ms(config.ledger.reserve_timeout_ms), clock);
        let tasks = TaskTracker::new();
        let stopping = CancellationToken::new();
        let draining = CancellationToken::new();
        let poller = Arc::new(Poller::new(
            ledger.clone(),
            upstream.clone(),
            tasks.clone(),
            &config.status,
            &config.reconciler,
            clock,
        ));
        poller.budget().share_with(gateways);
        metrics::gauge!(m::LIVE_GATEWAYS).set(gateways);
        let body_timeout = ms(config.server.body_timeout_ms);
        let proxies = TrustedProxies::new(&config.server);
        let limits = Arc::new(RateLimits::new(config.limits));
        let gauges = Arc::new(Gauges {
            callers: database.clone(),
            upkeep: upkeep.clone(),
            lease: lease.clone(),
            authenticator: keys.clone(),
            limits: limits.clone(),
            poller: poller.clone(),
            upstream: upstream.clone(),
            process: metrics_process::Collector::default(),
        });
        gauges.process.describe();
        let parts = Parts {
            clock,
            tracing: tracing.clone(),
            draining: TaskTracker::new(),
            proxies: proxies.clone(),
            keys: keys.clone(),
            document: crate::handlers::document().to_json().unwrap_or_default().into(),
            limits,
            prices: prices.clone(),
            replay: Replay { database: database.clone(), body_timeout },
            reserve: Reserve { ledger: ledger.clone(), upstream },
            forward: Arc::new(Forward {
                poller: poller.clone(),
                lease: lease.clone(),
                tasks: tasks.clone(),
                client_deadline: ms(config.server.create_deadline_ms),
                stop: stopping.clone(),
                last_wait: ms(config.server.shutdown_grace_ms).mul_f64(0.7),
                first_poll: ms(config.reconciler.interval_ms),
                clock,
            }),
            handlers: Handlers {
                database: database.clone(),
                poller: poller.clone(),
                prices: prices.clone(),
                max_quote: Duration::from_secs(config.quotes.max_valid_seconds.into()),
                body_timeout,
                clock,
            },
        };
        let api = Api {
            database: database.clone(),
            authenticator: keys.clone(),
            proxies,
            tasks: tasks.clone(),
            tracing: tracing.clone(),
        };
        let operations = Operations {
            database,
            prices,
            lease: lease.clone(),
            gauges,
            draining: draining.clone(),
            metrics,
        };
        Ok(Self {
            config,
            data_listener,
            admin_listener,
            certificates,
            parts,
            operations,
            api,
            ledger,
            upkeep,
            lease,
            poller,
            watcher,
            keys,
            tracing,
            tasks,
            stopping,
            draining,
        })
    }

    /// Where the data plane listens.
    pub fn data_address(&self) -> std::io::Result<SocketAddr> {
        self.data_listener.local_addr()
    }

    /// Makes the first operator's token, unless there is one already: that of the configuration, or a fresh one, which
    /// `show` shows this once. If that fails there is none, and the next start shows another.
    pub async fn bootstrap_operator<E: From<LedgerError>>(
        &self,
        show: impl FnOnce(&Secret) -> Result<(), E> + Send,
    ) -> Result<(), E> {
        let given = self.config.admin.bootstrap_token.as_ref();
        let given = given.and_then(|token| PresentedKey::parse(token.expose()));
        let database = &self.operations.database;
        let acting = database.acting(Actor::program("bootstrap"));
        if !acting.bootstrap_operator(given.as_ref(), show).await?
            && let Some(given) = given
            && database.find_operator(&given).await?.is_none()
        {
            tracing::warn!(
                "admin.bootstrap_token is no operator's token: there were others already, or it was revoked; \
                 it counts at the first start only and can be removed"
            );
        }
        Ok(())
    }

    /// Where the operations listener listens.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// Serves until `asked` and, for as long as is configured, after it; then stops accepting, finishes what is in
    /// flight, writes what is to be written. False if the grace period was too short for that.
    pub async fn run(self, asked: CancellationToken) -> bool {
        let Self {
            config,
            data_listener,
            admin_listener,
            certificates,
            parts,
            operations,
            api,
            ledger,
            upkeep,
            lease,
            poller,
            watcher,
            keys,
            tracing,
            tasks,
            stopping,
            draining,
        } = self;
        let header_timeout = ms(config.server.header_timeout_ms);
        let grace = ms(config.server.shutdown_grace_ms);
        let backends = [Some(&config.upstream.kling_3), config.upstream.kling_o3.as_ref()];
        let accounts = backends.into_iter().flatten().flat_map(|backend| &backend.accounts);
        let accounts = accounts.map(|account| account.name.clone()).collect();
        let pace = Pace {
            tick: ms(config.reconciler.tick_ms),
            interval: ms(config.reconciler.interval_ms),
            concurrency: config.reconciler.concurrency,
            // A dead gateway's holds do not wait much longer than its lease.
            sweep: lease.interval().min(Duration::from_secs(5)),
            idempotency_hours: config.ledger.idempotency_hours,
            in_doubt_ttl: Duration::from_secs(u64::from(config.ledger.in_doubt_hours) * 3600),
        };
        let minutes = u64::from(config.ledger.audit_minutes);
        let every = (minutes > 0).then(|| Duration::from_secs(minutes * 60));
        let stop = CancellationToken::new();
        // The lease and the operations listener live on until the last create is recorded.
        let drained = CancellationToken::new();
        let background = TaskTracker::new();
        background.spawn(watcher.run(stop.clone()));
        background.spawn(background::note_uses(keys.clone(), upkeep.clone(), drained.clone()));
        background.spawn(background::renew(lease.clone(), poller.clone(), drained.clone()));
        for backend in Upstream::names() {
            background.spawn(background::finish_tasks(
                backend,
                poller.clone(),
                upkeep.clone(),
                tasks.clone(),
                tracing.clone(),
                pace.clone(),
                stop.clone(),
            ));
        }
        background.spawn(background::audit(upkeep.clone(), ledger.gateway(), every, stop.clone()));
        background.spawn(background::sweep(
            ledger.clone(),
            upkeep,
            keys,
            operations.metrics.clone(),
            accounts,
            pace,
            stop.clone(),
        ));
        for certificate in certificates.iter().flatten() {
            background.spawn(certificate.clone().watch(drained.clone()));
        }
        let [tls, admin_tls] = certificates;
        let terms = ServeOptions { header_timeout, tls, drain: draining.clone(), stop: stop.clone() };
        // Whoever asks whether we drain is served to the end.
        let admin_terms =
            ServeOptions { tls: admin_tls, drain: drained.clone(), stop: drained.clone(), ..terms.clone() };
        background.spawn(serve(admin_listener, router(operations, api), admin_terms));
        let server = background.spawn(serve(data_listener, data_plane(parts), terms));
        asked.cancelled().await;
        draining.cancel();
        if config.server.drain_ms > 0 {
            tracing::info!(for_ms = config.server.drain_ms, "draining: not ready any more, but serving");
            tokio::time::sleep(ms(config.server.drain_ms)).await;
        }
        stop.cancel();
        stopping.cancel();
        tracing::info!("stopping: finishing what is in flight");
        let in_order = async {
            // Ends when its last connection has.
            let _ = server.await;
            tasks.close();
            tasks.wait().await;
        };
        // A client that dawdles over its request, or over our answer, has nothing at stake that is not recorded.
        let in_flight = grace.saturating_sub(FLUSH_TIMEOUT).max(grace.mul_f64(0.75));
        let finished = tokio::time::timeout(in_flight, in_order).await.is_ok() || {
            tasks.close();
            tasks.is_empty()
        };
        let finished = finished & tokio::time::timeout(FLUSH_TIMEOUT, ledger.shut_down()).await.is_ok();
        if !finished {
            tracing::error!(
                "the grace period was too short: what is left is taken over by another gateway or the next start"
            );
        }
        drained.cancel();
        background.close();
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, background.wait()).await;
        let last = tokio::time::timeout(FAREWELL_TIMEOUT, lease.end());
        let (ended, ()) = tokio::join!(last, tracing.shut_down(FAREWELL_TIMEOUT));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not give the lease back"),
            Err(_) => tracing::warn!("could not give the lease back in time"),
        }
        tracing::info!(finished, "stopped");
        finished
    }
}
