//! Builds every part, lower floors first.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::metrics::recorder;
use super::run::time_in_flight;
use super::{App, Consoles, Listener, StartError, database, descriptors};
use crate::access::LOOKUP_CONNECTIONS;
use crate::access::callers::Authenticator;
use crate::access::jwks::KeySets;
use crate::access::oidc::SignInClient;
use crate::access::proxies::TrustedProxies;
use crate::admin::api::{self, Api, Audience, MANAGEMENT_CONNECTIONS};
use crate::admin::{Figures, Gauges, Operations};
use crate::background::{self, FinishPace, JobParts, Pace, Watcher};
use crate::bulk::{AnswerPace, Bulk};
use crate::call::Party;
use crate::clock::Clock;
use crate::config::{Config, DatabaseConfig, Tls, ms};
use crate::credits::Credits;
use crate::handlers::Handlers;
use crate::https::Egress;
use crate::ids::{GatewayId, OrgId};
use crate::layers::body::{BodyReader, MAX_BODY, MAX_MANAGEMENT_BODY};
use crate::layers::forward::Forward;
use crate::layers::price::Pricing;
use crate::layers::replay::Replay;
use crate::layers::reserve::Reserve;
use crate::layers::unanswered::{InHand, Unanswered};
use crate::metrics as m;
use crate::poll::Poller;
use crate::price_cache::Prices;
use crate::rate_limits::RateLimits;
use crate::server::{self, Certificate, bind};
use crate::stack::Parts;
use crate::store::{
    Actor, CONTENT_CONNECTIONS, Contents, Database, LaneSettings, Lease, Ledger, Purpose, RETRY_ASIDE,
    SIDE_LANES, SharedDatabase, Shortfall, StoreError,
};
use crate::telemetry::Tracing;
use crate::upstream::Upstream;

/// The sweep releases a hold that is HELD for longer than this and that its gateway does not work on.
const HOLD_GRACE: Duration = Duration::from_secs(30);

/// The time a caller of the management API has to send a body.
const MANAGEMENT_BODY_TIMEOUT: Duration = Duration::from_secs(10);

impl App {
    /// Checks the database, binds the listeners and builds every part.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let metrics = recorder()?;
        let pace = AnswerPace::new(config.limits.org_answer_bytes_per_second);
        let bulk = Bulk::new(config.server.max_bytes_under_way).at(pace);
        let egress = config.egress()?;
        let upstream = Arc::new(Upstream::new(&config.upstream, &egress, &bulk, Clock)?);
        let certificates = [
            certificate("server", "data", config.server.tls.as_ref())?,
            certificate("admin", "operations", config.admin.tls.as_ref())?,
        ];
        let pools = Pools::connect(&config.database).await?;
        let [data, admin] = listeners(&config, certificates).await?;
        let shared = SharedParts::build(&config, &egress, pools, metrics, bulk, upstream).await?;
        let max_connections = descriptors::for_data_connections(&config);
        let unanswered = shared.unanswered(&config);
        let api = shared.api(&config);
        Ok(Self {
            max_connections,
            data,
            admin,
            parts: shared.parts(&config, &api, unanswered.clone()),
            api,
            operations: shared.operations(),
            consoles: shared.consoles(&config),
            work: Arc::new(shared.work(&config, unanswered)),
            tasks: shared.tasks,
            stop: shared.stop,
            draining: shared.draining,
            config,
        })
    }
}

fn certificate(
    section: &'static str,
    listener: &'static str,
    tls: Option<&Tls>,
) -> Result<Option<Arc<Certificate>>, StartError> {
    let certificate = tls.map(|tls| Certificate::new(listener, tls)).transpose();
    certificate.map_err(|reason| StartError::Tls { section, reason: Box::new(reason) })
}

async fn listeners(
    config: &Config,
    [data, admin]: [Option<Arc<Certificate>>; 2],
) -> Result<[Listener; 2], StartError> {
    ["data", "operations"].into_iter().for_each(server::register);
    let socket = bind("the gateway", config.server.listen, "server.listen (demo: --listen)")?;
    let data = Listener { socket, certificate: data };
    let socket = bind("the operations listener", config.admin.listen, "admin.listen")?;
    Ok([data, Listener { socket, certificate: admin }])
}

/// The pools of connections to the database, besides the ledger's lanes. Statements that hang in one pool do not
/// disturb the others.
struct Pools {
    /// For the data plane. Organisations have turns.
    callers: SharedDatabase<OrgId>,
    /// For the management API. Organisations and operators have turns.
    management: SharedDatabase<Party>,
    /// For what the vendor said about tasks. Organisations have turns.
    contents: Contents,
    /// For credentials that are not cached.
    lookups: Database,
    /// For background jobs: tasks must be finished even while callers fill their pool.
    upkeep: Database,
    /// For the lease alone: without the lease this gateway may send nothing.
    lease: Database,
}

impl Pools {
    async fn connect(config: &DatabaseConfig) -> Result<Self, StoreError> {
        let of = |max_connections| database(&DatabaseConfig { max_connections, ..config.clone() });
        let (callers, lookups, contents) =
            (database(config)?, of(LOOKUP_CONNECTIONS)?, of(CONTENT_CONNECTIONS)?);
        let (upkeep, lease) = (of(background::CONNECTIONS)?, of(1)?);
        // The first call should not have to wait for connections.
        for pool in [&lease, &upkeep, &lookups, &contents, &callers] {
            pool.find_primary().await?;
        }
        for Shortfall { what, remedy, .. } in upkeep.check_assumptions(Purpose::Serve).await? {
            tracing::warn!(remedy, "{what}");
        }
        upkeep.check_schema().await?;
        let management = of(MANAGEMENT_CONNECTIONS)?.into();
        Ok(Self {
            callers: callers.into(),
            management,
            contents: Contents::start(contents),
            lookups,
            upkeep,
            lease,
        })
    }
}

/// The parts that several other parts use.
struct SharedParts {
    metrics: PrometheusHandle,
    pools: Pools,
    bulk: Bulk,
    upstream: Arc<Upstream>,
    tracing: Tracing,
    lease: Arc<Lease>,
    authenticator: Arc<Authenticator>,
    prices: Arc<Prices>,
    watcher: Arc<Watcher>,
    ledger: Ledger,
    poller: Arc<Poller>,
    limits: Arc<RateLimits>,
    proxies: TrustedProxies,
    tasks: TaskTracker,
    stop: CancellationToken,
    draining: CancellationToken,
}

impl SharedParts {
    async fn build(
        config: &Config,
        egress: &Egress,
        pools: Pools,
        metrics: PrometheusHandle,
        bulk: Bulk,
        upstream: Arc<Upstream>,
    ) -> Result<Self, StartError> {
        let gateway = GatewayId::generate();
        let tracing = Tracing::new(&config.telemetry, egress.authorities.clone(), gateway)?;
        let lease = Arc::new(Lease::new(pools.lease.clone(), gateway, ms(config.ledger.lease_ms), Clock));
        let gateways = lease.renew().await?;
        let authenticator = Arc::new(authenticator(config, egress, &pools)?);
        let prices = Arc::new(Prices::new(&config.quotes));
        let watcher =
            Arc::new(Watcher::new(pools.upkeep.clone(), authenticator.clone(), prices.clone(), Clock));
        encrypt_secrets(config, &pools.upkeep).await?;
        watcher.look().await?;
        let ledger = ledger(config, &pools.callers, gateway);
        let tasks = TaskTracker::new();
        let poller = Arc::new(Poller::new(
            ledger.clone(),
            pools.contents.clone(),
            upstream.clone(),
            tasks.clone(),
            bulk.clone(),
            config,
            Clock,
        ));
        poller.budget().share_with(gateways);
        metrics::gauge!(m::LIVE_GATEWAYS).set(gateways);
        Ok(Self {
            metrics,
            pools,
            bulk,
            upstream,
            tracing,
            lease,
            authenticator,
            prices,
            watcher,
            ledger,
            poller,
            limits: Arc::new(RateLimits::new(config.limits)),
            proxies: TrustedProxies::new(&config.server),
            tasks,
            stop: CancellationToken::new(),
            draining: CancellationToken::new(),
        })
    }

    fn unanswered(&self, config: &Config) -> Arc<Unanswered> {
        Arc::new(Unanswered {
            ledger: self.ledger.clone(),
            database: self.pools.upkeep.clone(),
            bulk: self.bulk.clone(),
            tasks: self.tasks.clone(),
            client_deadline: ms(config.server.create_deadline_ms),
            stop: self.stop.clone(),
            last_wait: last_wait(config),
            clock: Clock,
            book: InHand::default(),
        })
    }

    fn parts(&self, config: &Config, api: &Api, unanswered: Arc<Unanswered>) -> Parts {
        let of_tenants = || api::router(Api { audience: Audience::Tenants, ..api.clone() });
        let bodies = BodyReader {
            most: MAX_BODY,
            timeout: ms(config.server.body_timeout_ms),
            bulk: self.bulk.clone(),
        };
        Parts {
            clock: Clock,
            tracing: self.tracing.clone(),
            draining: TaskTracker::new(),
            proxies: self.proxies.clone(),
            keys: self.authenticator.clone(),
            origins: config.server.cors_origins.iter().filter_map(|origin| origin.parse().ok()).collect(),
            management: config.server.tenant_api.then(of_tenants),
            document: crate::handlers::document().to_json().unwrap_or_default().into(),
            limits: self.limits.clone(),
            price: Pricing { prices: self.prices.clone(), workers: self.bulk.workers.clone() },
            replay: Replay {
                database: self.pools.callers.clone(),
                bodies: bodies.clone(),
                bulk: self.bulk.clone(),
            },
            reserve: Reserve {
                ledger: self.ledger.clone(),
                upstream: self.upstream.clone(),
                bulk: self.bulk.clone(),
                unanswered: unanswered.clone(),
                budgets_page: config
                    .console
                    .address_of("/console/budgets")
                    .filter(|_| config.console.enabled),
            },
            forward: Arc::new(Forward {
                poller: self.poller.clone(),
                lease: self.lease.clone(),
                tasks: self.tasks.clone(),
                client_deadline: ms(config.server.create_deadline_ms),
                stop: self.stop.clone(),
                last_wait: last_wait(config),
                first_poll: ms(config.reconciler.interval_ms),
                clock: Clock,
            }),
            handlers: Handlers {
                database: self.pools.callers.clone(),
                poller: self.poller.clone(),
                prices: self.prices.clone(),
                max_quote: Duration::from_secs(config.quotes.max_valid_seconds.into()),
                bodies,
                bulk: self.bulk.clone(),
                refusals: Arc::default(),
                clock: Clock,
            },
        }
    }

    fn api(&self, config: &Config) -> Api {
        Api {
            audience: Audience::Everybody,
            database: self.pools.management.clone(),
            limits: self.limits.clone(),
            authenticator: self.authenticator.clone(),
            proxies: self.proxies.clone(),
            max_exposure: max_exposure(config),
            console: Arc::new(config.console.clone()),
            secrets: config.quotes.stored_secrets(),
            contents: self.pools.contents.clone(),
            upstream: self.upstream.clone(),
            prices: self.prices.clone(),
            tasks: self.tasks.clone(),
            bodies: BodyReader {
                most: MAX_MANAGEMENT_BODY,
                timeout: MANAGEMENT_BODY_TIMEOUT,
                bulk: self.bulk.clone(),
            },
            figures: self.figures(),
            tracing: self.tracing.clone(),
        }
    }

    fn consoles(&self, config: &Config) -> Option<Consoles> {
        config.console.enabled.then(|| Consoles {
            settings: config.console.clone(),
            authenticator: self.authenticator.clone(),
            proxies: self.proxies.clone(),
            bodies: BodyReader {
                most: MAX_BODY,
                timeout: ms(config.server.body_timeout_ms),
                bulk: self.bulk.clone(),
            },
            limits: self.limits.clone(),
        })
    }

    fn figures(&self) -> Figures {
        Figures { gauges: Arc::new(self.gauges()), metrics: self.metrics.clone(), lease: self.lease.clone() }
    }

    fn gauges(&self) -> Gauges {
        let gauges = Gauges {
            callers: self.pools.callers.clone(),
            management: self.pools.management.clone(),
            upkeep: self.pools.upkeep.clone(),
            lease_pool: self.pools.lease.clone(),
            lease: self.lease.clone(),
            authenticator: self.authenticator.clone(),
            limits: self.limits.clone(),
            poller: self.poller.clone(),
            upstream: self.upstream.clone(),
            process: metrics_process::Collector::default(),
        };
        gauges.process.describe();
        gauges
    }

    fn operations(&self) -> Operations {
        Operations {
            database: self.pools.upkeep.clone(),
            prices: self.prices.clone(),
            lease: self.lease.clone(),
            gauges: Arc::new(self.gauges()),
            draining: self.draining.clone(),
            metrics: self.metrics.clone(),
            readiness: Arc::default(),
        }
    }

    fn work(&self, config: &Config, unanswered: Arc<Unanswered>) -> JobParts {
        JobParts {
            lease: self.lease.clone(),
            database: self.pools.upkeep.clone(),
            ledger: self.ledger.clone(),
            poller: self.poller.clone(),
            authenticator: self.authenticator.clone(),
            unanswered,
            watcher: self.watcher.clone(),
            metrics: self.metrics.clone(),
            accounts: accounts(config),
            tasks: self.tasks.clone(),
            tracing: self.tracing.clone(),
            pace: pace(config, &self.lease),
            stop: self.stop.clone(),
        }
    }
}

/// Encrypts what was stored before the gateways had a secret, or under their former one.
async fn encrypt_secrets(config: &Config, database: &Database) -> Result<(), StoreError> {
    let gateway = database.acting(Actor::program("gateway"));
    for (provider, why) in gateway.encrypt_client_secrets(&config.quotes.stored_secrets()).await? {
        tracing::warn!(%provider, %why, "the client secret of an identity provider cannot be read: enter it again");
    }
    Ok(())
}

fn authenticator(config: &Config, egress: &Egress, pools: &Pools) -> Result<Authenticator, StartError> {
    let asks = (
        KeySets::new(&config.auth, egress, Clock)?,
        SignInClient::new(egress, config.quotes.stored_secrets(), Clock)?,
    );
    let failures = config.limits.failed_logins_per_minute;
    let (known, new) = (pools.callers.clone(), pools.lookups.clone());
    Ok(Authenticator::new(known, new, asks, &config.auth, failures, Clock))
}

fn ledger(config: &Config, database: &SharedDatabase<OrgId>, gateway: GatewayId) -> Ledger {
    let lanes = LaneSettings {
        profile: config.ledger.profile,
        lanes: config.ledger.lanes,
        max_batch: config.ledger.max_batch,
        queue: config.ledger.queue,
        side_lanes: SIDE_LANES,
        retry_aside: RETRY_ASIDE,
        call_timeout: ms(config.ledger.call_timeout_ms),
        hold_grace: HOLD_GRACE,
        max_open_tasks: i32::try_from(config.limits.max_open_tasks).unwrap_or(i32::MAX),
        max_exposure: max_exposure(config),
    };
    let reserve_timeout = ms(config.ledger.reserve_timeout_ms);
    Ledger::start(database.clone(), gateway, &lanes, reserve_timeout, Clock)
}

/// How long after a stop a create may still wait for the vendor: it must then have time to record its doubt and to answer.
fn last_wait(config: &Config) -> Duration {
    time_in_flight(ms(config.server.shutdown_grace_ms)).mul_f64(0.75)
}

/// The exposure of an organisation in a day at which its creates are stopped; 0: no limit.
fn max_exposure(config: &Config) -> Credits {
    Credits::new(config.limits.max_exposure_per_day.into())
}

/// The names of all our accounts with the vendor.
fn accounts(config: &Config) -> Vec<String> {
    let backends = [Some(&config.upstream.kling_3), config.upstream.kling_o3.as_ref()];
    let accounts = backends.into_iter().flatten().flat_map(|backend| &backend.accounts);
    accounts.map(|account| account.name.clone()).collect()
}

fn pace(config: &Config, lease: &Lease) -> Pace {
    let minutes = u64::from(config.ledger.audit_minutes);
    Pace {
        finish: FinishPace {
            tick: ms(config.reconciler.tick_ms),
            interval: ms(config.reconciler.interval_ms),
            concurrency: config.reconciler.concurrency,
        },
        // The holds of a dead gateway should not wait much longer than until its lease ends.
        sweep: lease.interval().min(Duration::from_secs(5)),
        audit: (minutes > 0).then(|| Duration::from_secs(minutes * 60)),
        idempotency_hours: config.ledger.idempotency_hours,
        content_days: config.retention.content_days,
        in_doubt_ttl: Duration::from_secs(u64::from(config.ledger.in_doubt_hours) * 3600),
    }
}
