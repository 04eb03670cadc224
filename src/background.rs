//! What goes on by itself: a table of jobs, [`Work::jobs`]. None of them can delay another ([`jobs`]).

mod audit;
mod counts;
mod finish;
mod jobs;
mod watcher;

pub use self::finish::FinishPace;
pub use self::jobs::{Job, JobError, Next};
pub use self::watcher::Watcher;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::finish::Finisher;
use crate::access::callers::Authenticator;
use crate::metrics as m;
use crate::poll::Poller;
use crate::store::{Database, Lease, Ledger, LedgerError};
use crate::telemetry::Tracing;
use crate::upstream::Upstream;

/// Connections of the pool that jobs share: one for each job that uses the database, so that jobs which hang there take
/// no connection that another job needs. The lease has a pool of its own.
pub const CONNECTIONS: u32 = 14;

/// Deadline of a job that asks the database one or two quick questions.
const QUICK: Duration = Duration::from_secs(5);

/// Deadline of a job that may have much to do or to count, or whose own time-outs are shorter and must have the say:
/// what it has begun to keep in memory would be lost with a run that is given up.
const LONG: Duration = Duration::from_secs(30);

/// How often rows that nobody needs any more are deleted.
const TIDY: Duration = Duration::from_secs(600);

/// How often jobs run, where the configuration has a say in it.
#[derive(Debug, Clone)]
pub struct Pace {
    pub finish: FinishPace,
    /// How often holds without an owner, credits and budgets are looked at.
    pub sweep: Duration,
    /// How far apart audits begin; none: this gateway runs none, but shows the results of others.
    pub audit: Option<Duration>,
    /// How long idempotency keys are kept.
    pub idempotency_hours: u32,
    /// How long a task may be in doubt.
    pub in_doubt_ttl: Duration,
}

/// The parts of the gateway that jobs work on.
pub struct Work {
    /// The lease of this gateway.
    pub lease: Arc<Lease>,
    /// A pool of [`CONNECTIONS`]: not the callers' pool, which they may have filled.
    pub database: Database,
    pub ledger: Ledger,
    pub poller: Arc<Poller>,
    pub authenticator: Arc<Authenticator>,
    /// The follower of what operators change.
    pub watcher: Arc<Watcher>,
    pub metrics: PrometheusHandle,
    /// The vendor's accounts, as the configuration calls them.
    pub accounts: Vec<String>,
    /// Polls run here: a stop waits for them.
    pub tasks: TaskTracker,
    pub tracing: Tracing,
    pub pace: Pace,
    /// The gateway is to stop.
    pub stop: CancellationToken,
}

impl Work {
    /// The table of jobs. A name is a value of the label `job_name` of `tollgate_job_…`.
    fn jobs(self: &Arc<Self>, changed: &Arc<Notify>) -> Vec<Job> {
        let (lease, sweep, work) = (self.lease.interval(), self.pace.sweep, self);
        vec![
            // What keeps this gateway fit to serve. A renewal counts from its beginning: once the lease is over it is
            // worth nothing.
            work.job("renew lease", lease, (lease * 4).min(QUICK), renew_lease).until_drained(),
            work.job("follow changes", secs(1), LONG, follow_changes).woken_by(changed.clone()),
            // What must become of holds, credits and budgets.
            work.job("sweep holds", sweep, LONG, sweep_holds),
            work.job("expire credits", sweep, LONG, expire_credits),
            work.job("tell budget events", sweep, QUICK, tell_budget_events),
            work.job("tell low balances", sweep, QUICK, tell_low_balances),
            work.job("audit", secs(5), audit::DEADLINE, audit).at_once(),
            // What is shown.
            work.job("count holds", sweep, LONG, count_holds).at_once(),
            work.job("measure drift", sweep, LONG, measure_drift).at_once(),
            work.job("show audit", secs(5), QUICK, show_audit).at_once(),
            work.job("note key uses", secs(2), LONG, note_key_uses).until_drained().once_more(),
            // What is not needed any more.
            work.job("forget idempotency keys", TIDY, LONG, forget_idempotency_keys).at_once(),
            work.job("forget dead gateways", TIDY, QUICK, forget_dead_gateways).at_once(),
            work.job("forget idle limits", sweep, QUICK, forget_idle_limits),
            work.job("fold metrics", secs(5), QUICK, fold_metrics),
        ]
    }

    /// Starts every job on `tasks`, and those in `more`, which belong to other parts.
    pub fn start(
        self: Arc<Self>,
        more: impl IntoIterator<Item = Job>,
        tasks: &TaskTracker,
        drained: &CancellationToken,
    ) {
        let changed = Arc::new(Notify::new());
        tasks.spawn(self.watcher.clone().listen(changed.clone(), self.stop.clone()));
        let finishing = Upstream::names().map(|backend| self.finisher(backend).job(QUICK));
        for job in self.jobs(&changed).into_iter().chain(finishing).chain(more) {
            job.start(tasks, &self.stop, drained);
        }
    }

    fn finisher(&self, backend: Arc<str>) -> Finisher {
        Finisher::new(
            backend,
            self.poller.clone(),
            self.database.clone(),
            self.tasks.clone(),
            self.tracing.clone(),
            self.pace.finish.clone(),
        )
    }

    fn job<F, R, E>(self: &Arc<Self>, name: &str, interval: Duration, deadline: Duration, run: F) -> Job
    where
        F: Fn(Arc<Self>) -> R + Send + 'static,
        R: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<JobError>,
    {
        let work = self.clone();
        let run = move || {
            let running = run(work.clone());
            async move { running.await.map(|()| Next::Interval).map_err(Into::into) }
        };
        Job::new(name, interval, deadline, run)
    }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Also learns how many gateways share the poll budget.
async fn renew_lease(work: Arc<Work>) -> Result<(), LedgerError> {
    let gateways = work.lease.renew().await?;
    metrics::gauge!(m::LIVE_GATEWAYS).set(gateways);
    work.poller.budget().share_with(gateways);
    Ok(())
}

async fn follow_changes(work: Arc<Work>) -> Result<(), LedgerError> {
    work.watcher.look().await
}

async fn sweep_holds(work: Arc<Work>) -> Result<(), LedgerError> {
    work.ledger.sweep(&work.database, work.pace.in_doubt_ttl).await
}

async fn expire_credits(work: Arc<Work>) -> Result<(), LedgerError> {
    work.database.expire_credits().await.map(drop)
}

async fn tell_budget_events(work: Arc<Work>) -> Result<(), LedgerError> {
    work.database.tell_budget_events().await
}

async fn tell_low_balances(work: Arc<Work>) -> Result<(), LedgerError> {
    work.database.tell_low_balances().await
}

async fn audit(work: Arc<Work>) -> Result<(), LedgerError> {
    match work.pace.audit {
        Some(every) => audit::run(&work.database, work.ledger.gateway(), every, &work.stop).await,
        None => Ok(()),
    }
}

async fn count_holds(work: Arc<Work>) -> Result<(), LedgerError> {
    counts::holds(&work.database).await
}

async fn measure_drift(work: Arc<Work>) -> Result<(), LedgerError> {
    counts::drift(&work.database, &work.accounts).await
}

async fn show_audit(work: Arc<Work>) -> Result<(), LedgerError> {
    audit::show_result(&work.database).await
}

async fn note_key_uses(work: Arc<Work>) -> Result<(), LedgerError> {
    work.authenticator.write_down_uses(&work.database).await
}

async fn forget_idempotency_keys(work: Arc<Work>) -> Result<(), LedgerError> {
    let hours = i32::try_from(work.pace.idempotency_hours).unwrap_or(i32::MAX);
    work.database.forget_old_claims(hours).await.map(drop)
}

async fn forget_dead_gateways(work: Arc<Work>) -> Result<(), LedgerError> {
    work.database.forget_dead_gateways().await
}

async fn forget_idle_limits(work: Arc<Work>) -> Result<(), LedgerError> {
    work.authenticator.tidy();
    Ok(())
}

/// Samples of histograms pile up until they are folded into buckets, or until somebody scrapes.
async fn fold_metrics(work: Arc<Work>) -> Result<(), LedgerError> {
    work.metrics.run_upkeep();
    Ok(())
}
