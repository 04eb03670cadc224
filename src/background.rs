//! Work nobody waits for: finishing tasks, sweeping holds, renewing the lease, following what operators change.
//! Each loop ends with `stop`; each failure is logged and tried again.

mod audit;
mod counts;

pub use self::audit::audit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::counts::count;
use crate::access::callers::Authenticator;
use crate::clock::Clock;
use crate::metrics as m;
use crate::poll::Poller;
use crate::price_cache::{DatabaseTime, Prices};
use crate::pricing::BookVersion;
use crate::store::{Database, EpochListener, Epochs, Lease, Ledger, LedgerError};
use crate::telemetry::{Span, Tracing};

/// How the reconciler works.
#[derive(Debug, Clone)]
pub struct Pace {
    /// How often due tasks are looked for.
    pub tick: Duration,
    /// How far apart polls of one task begin.
    pub interval: Duration,
    /// Polls at one time.
    pub concurrency: usize,
    /// How often holds nobody works on are looked for.
    pub sweep: Duration,
    /// How long idempotency keys are kept.
    pub idempotency_hours: u32,
    /// How long a task may be in doubt.
    pub in_doubt_ttl: Duration,
}

/// Waits, or tells that it is time to stop.
async fn pause(stop: &CancellationToken, time: Duration) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}

/// Polls the tasks of one backend until each has ended, whether or not anybody asks for it. One loop a backend: one that
/// hangs keeps only its own tasks waiting.
pub async fn finish_tasks(
    backend: Arc<str>,
    poller: Arc<Poller>,
    database: Database,
    tasks: TaskTracker,
    tracing: Tracing,
    pace: Pace,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(pace.concurrency));
    // Each look at the database is worth some tasks.
    let some = u32::try_from(pace.concurrency.div_ceil(4)).unwrap_or(u32::MAX);
    let mut more = false;
    while more || pause(&stop, pace.tick.mul_f64(rand::random_range(0.75..1.25))).await {
        let room = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            room = slots.acquire_many(some) => room,
        };
        drop(room);
        // What is claimed waits for the budget in its slot: nothing is claimed that could not soon be asked.
        let per_tick = f64::from(poller.budget().share()) * pace.tick.as_secs_f64();
        // Nor so much that a claim runs out before its turn comes.
        let in_time = (f64::from(poller.budget().share()) * pace.interval.as_secs_f64()).max(1.0) as usize;
        let waiting = pace.concurrency.saturating_sub(slots.available_permits());
        let limit =
            (per_tick.ceil() as usize).min(slots.available_permits()).min(in_time.saturating_sub(waiting));
        if limit == 0 {
            more = false;
            continue;
        }
        let due = database.claim_due(&backend, u32::try_from(limit).unwrap_or(u32::MAX), pace.interval).await;
        let due = due.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for due tasks");
            Vec::new()
        });
        more = due.len() >= limit;
        for task in due {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let poller = poller.clone();
            tasks.spawn(tracing.own_work().around(async move {
                let mut span = Span::of_own_work("reconcile");
                span.set("tollgate.hold", task.hold);
                span.around(poller.poll(task)).await;
                drop(slot);
            }));
        }
    }
}

/// Brings holds nobody works on to an honest end, takes back credits that have run out, forgets old idempotency keys, counts what is open and what drifts
/// (in these upstream `accounts`).
pub async fn sweep(
    ledger: Ledger,
    database: Database,
    keys: Arc<Authenticator>,
    metrics: PrometheusHandle,
    accounts: Vec<String>,
    pace: Pace,
    stop: CancellationToken,
) {
    let mut round = 0u32;
    show(&database, &accounts).await;
    while pause(&stop, pace.sweep).await {
        keys.tidy();
        // Folds samples into buckets; without it they pile up until somebody scrapes.
        metrics.run_upkeep();
        if let Err(error) = ledger.sweep(&database, pace.in_doubt_ttl).await {
            tracing::warn!(%error, "cannot sweep");
        }
        if let Err(error) = database.expire_credits().await {
            tracing::warn!(%error, "cannot take back credits that have run out");
        }
        let hours = i32::try_from(pace.idempotency_hours).unwrap_or(i32::MAX);
        if round.is_multiple_of(120) {
            if let Err(error) = database.forget_old_claims(hours).await {
                tracing::warn!(%error, "cannot forget old idempotency keys");
            }
            if let Err(error) = database.forget_dead_gateways().await {
                tracing::warn!(%error, "cannot forget dead gateways");
            }
        }
        if let Err(error) = database.tell_budget_events().await {
            tracing::warn!(%error, "cannot tell of budgets");
        }
        if let Err(error) = database.tell_low_balances().await {
            tracing::warn!(%error, "cannot tell of low balances");
        }
        round = round.wrapping_add(1);
        show(&database, &accounts).await;
    }
}

async fn show(database: &Database, accounts: &[String]) {
    if let Err(error) = count(database, accounts).await {
        tracing::warn!(%error, "cannot count what is open");
    }
}

/// Renews the lease, and learns how many gateways share the poll budget.
pub async fn renew(lease: Arc<Lease>, poller: Arc<Poller>, stop: CancellationToken) {
    while pause(&stop, lease.interval()).await {
        match lease.renew().await {
            Ok(gateways) => {
                metrics::gauge!(m::LIVE_GATEWAYS).set(gateways);
                poller.budget().share_with(gateways);
            }
            Err(error) => tracing::warn!(%error, "cannot renew this gateway's lease"),
        }
    }
}

/// Writes down which keys were used: some seconds late, all at once, and a last time at the end.
pub async fn note_uses(keys: Arc<Authenticator>, database: Database, stop: CancellationToken) {
    let mut on = true;
    while on {
        on = pause(&stop, Duration::from_secs(2)).await;
        if let Err(error) = keys.write_down_uses(&database).await {
            tracing::warn!(%error, "cannot write down which keys were used");
        }
    }
}

/// Follows keys and prices: wakes by notification, looks every second in any case.
#[derive(Debug)]
pub struct Watcher {
    database: Database,
    keys: Arc<Authenticator>,
    prices: Arc<Prices>,
    clock: Clock,
    seen: Option<Epochs>,
    in_force: Option<BookVersion>,
    /// When the database's clock was last taken over, and how long it took to say it.
    timed: Option<(Instant, Duration)>,
}

impl Watcher {
    /// A watcher that has seen nothing yet.
    pub fn new(database: Database, keys: Arc<Authenticator>, prices: Arc<Prices>, clock: Clock) -> Self {
        Self { database, keys, prices, clock, seen: None, in_force: None, timed: None }
    }

    pub async fn look(&mut self) -> Result<(), LedgerError> {
        let seen = self.see().await;
        metrics::gauge!(m::DATABASE_UP).set(u8::from(seen.is_ok()));
        seen
    }

    async fn see(&mut self) -> Result<(), LedgerError> {
        let begun = self.clock.now();
        let epochs = self.database.epochs().await?;
        if self.seen.is_none_or(|seen| seen.auth != epochs.auth) {
            self.keys.invalidate();
        }
        self.keys.confirm(begun);
        self.look_at_the_clock().await?;
        if self.seen.is_none_or(|seen| seen.prices != epochs.prices) {
            self.prices.set(self.database.price_list().await?, self.database.signing_keys().await?);
        }
        self.seen = Some(epochs);
        metrics::gauge!(m::REVOCATION_EPOCH).set(epochs.auth as f64);
        // A book may also have come into force by the passing of time alone.
        let book = self.prices.current()?;
        if self.in_force.replace(book.version) != Some(book.version) {
            metrics::gauge!(m::PRICE_BOOK_VERSION).set(f64::from(book.version.get()));
            tracing::info!(version = %book.version, name = book.name, types = book.prices.len(), "price book in force");
        }
        Ok(())
    }

    /// Prices begin and end by the database's clock.
    async fn look_at_the_clock(&mut self) -> Result<(), LedgerError> {
        let asked = self.clock.now();
        let shown = self.database.clock().await?;
        let took = self.clock.since(asked);
        // By half of that we may be wrong: while it is slow, what it said before is better, unless that is long ago.
        let better = self.timed.is_none_or(|(last, last_took)| {
            took <= last_took * 2 || self.clock.since(last) > Duration::from_secs(60)
        });
        if better {
            self.prices.set_time(DatabaseTime { shown, seen: asked + took / 2 });
            self.timed = Some((asked, took));
        }
        Ok(())
    }

    pub async fn run(mut self, stop: CancellationToken) {
        let mut listener: Option<EpochListener> = None;
        loop {
            if listener.is_none() {
                listener = self
                    .database
                    .listen()
                    .await
                    .inspect_err(|error| tracing::warn!(%error, "cannot listen for changes"))
                    .ok();
            }
            let woken = async {
                match &mut listener {
                    Some(listener) => listener.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                result = woken => if result.is_err() { listener = None },
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "cannot look for changed keys and prices");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
