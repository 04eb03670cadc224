//! Work that no request asks for: a table of jobs, [`JobParts::jobs`]. No job can delay another ([`jobs`]).

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
use crate::layers::unanswered::Unanswered;
use crate::metrics as m;
use crate::poll::Poller;
use crate::store::{Database, Lease, Ledger, StoreError};
use crate::telemetry::Tracing;
use crate::upstream::Upstream;

/// The size of the pool that jobs share: one connection for each job that uses the database, so that a job whose
/// statement hangs takes no connection that another job needs, one for the question whether the gateway is ready, and one
/// for the notes of callers that have gone. The lease has a pool of its own.
pub const CONNECTIONS: u32 = 23;

/// Deadline of a job that makes one or two quick queries.
const QUICK: Duration = Duration::from_secs(5);

/// Deadline of a job that may have much to do, or whose own time-outs are shorter and should end its work first:
/// cancelling the run would lose what it has collected in memory.
const LONG: Duration = Duration::from_secs(30);

/// How often rows that are not needed any more are deleted.
const TIDY: Duration = Duration::from_secs(600);

/// Intervals and ages of jobs that the configuration determines.
#[derive(Debug, Clone)]
pub struct Pace {
    pub finish: FinishPace,
    /// How often the jobs for holds, credits and budgets run.
    pub sweep: Duration,
    /// The time from the start of one audit to the start of the next; `None`: this gateway runs no audits, but shows the
    /// results of others.
    pub audit: Option<Duration>,
    /// How many hours idempotency keys are kept.
    pub idempotency_hours: u32,
    /// How many days content is kept where an organisation has not said.
    pub content_days: u32,
    /// The age at which a task in doubt is written off.
    pub in_doubt_ttl: Duration,
}

/// The parts of the gateway that jobs work on.
pub struct JobParts {
    /// The lease of this gateway.
    pub lease: Arc<Lease>,
    /// A pool of [`CONNECTIONS`] connections. The jobs do not use the callers' pool, because it may be full.
    pub database: Database,
    pub ledger: Ledger,
    pub poller: Arc<Poller>,
    pub authenticator: Arc<Authenticator>,
    /// Tells other gateways that this one lives.
    pub unanswered: Arc<Unanswered>,
    /// Follows what operators change.
    pub watcher: Arc<Watcher>,
    pub metrics: PrometheusHandle,
    /// The names of our accounts with the vendor, from the configuration.
    pub accounts: Vec<String>,
    /// Tracks the polls, so that a stop waits for them.
    pub tasks: TaskTracker,
    pub tracing: Tracing,
    pub pace: Pace,
    /// Cancelled when the gateway is to stop.
    pub stop: CancellationToken,
}

impl JobParts {
    /// The table of jobs. The name of a job is the label `job_name` of the metrics `tollgate_job_…`.
    fn jobs(self: &Arc<Self>, changed: &Arc<Notify>, asked: &Arc<Notify>) -> Vec<Job> {
        let (lease, sweep, work) = (self.lease.interval(), self.pace.sweep, self);
        vec![
            // Jobs that keep this gateway able to serve. A renewed lease counts from the start of the renewal, so a
            // renewal that takes longer than the lease is useless.
            work.job("renew lease", lease, (lease * 4).min(QUICK), renew_lease).until_drained(),
            work.job("follow changes", secs(1), LONG, follow_changes).woken_by(changed.clone()),
            work.job("show life", secs(1), QUICK, show_life).until_drained().woken_by(asked.clone()),
            // Jobs that bring holds, credits and budgets forward.
            work.job("sweep holds", sweep, LONG, sweep_holds),
            work.job("expire credits", sweep, LONG, expire_credits),
            work.job("count budgets", sweep, LONG, count_budgets).at_once(),
            work.job("tell budget events", sweep, QUICK, tell_budget_events),
            work.job("tell low balances", sweep, QUICK, tell_low_balances),
            work.job("audit", secs(5), audit::DEADLINE, audit).at_once(),
            work.job("make partitions", TIDY, LONG, make_partitions).at_once(),
            work.job("seal months", TIDY, audit::DEADLINE, seal_months).at_once(),
            work.job("add up entries", secs(10), audit::DEADLINE, add_up_entries).at_once(),
            // Jobs that measure and report.
            work.job("count holds", sweep, LONG, count_holds).at_once(),
            work.job("measure drift", sweep, LONG, measure_drift).at_once(),
            work.job("show audit", secs(5), QUICK, show_audit).at_once(),
            work.job("note key uses", secs(2), LONG, note_key_uses).until_drained().once_more(),
            // Jobs that delete what is not needed any more.
            work.job("forget idempotency keys", TIDY, LONG, forget_idempotency_keys).at_once(),
            work.job("erase content", secs(60), LONG, erase_content).at_once(),
            work.job("forget dead gateways", TIDY, QUICK, forget_dead_gateways).at_once(),
            work.job("forget sessions", secs(60), QUICK, forget_sessions).at_once(),
            work.job("forget idle limits", sweep, QUICK, forget_idle_limits),
            work.job("fold metrics", secs(5), QUICK, fold_metrics),
        ]
    }

    /// Starts every job on `tasks`: those of the table, the finishers, and `more`, which belong to other parts.
    pub fn start(
        self: Arc<Self>,
        more: impl IntoIterator<Item = Job>,
        tasks: &TaskTracker,
        drained: &CancellationToken,
    ) {
        let (changed, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let woken = [changed.clone(), asked.clone()];
        tasks.spawn(self.watcher.clone().listen(woken, self.stop.clone()));
        let finishing = Upstream::names().map(|backend| self.finisher(backend).job(QUICK));
        for job in self.jobs(&changed, &asked).into_iter().chain(finishing).chain(more) {
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

/// Renews the lease, and learns how many gateways share the poll budget.
async fn renew_lease(work: Arc<JobParts>) -> Result<(), StoreError> {
    let gateways = work.lease.renew().await?;
    metrics::gauge!(m::LIVE_GATEWAYS).set(gateways);
    work.poller.budget().share_with(gateways);
    Ok(())
}

async fn follow_changes(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.watcher.look().await
}

async fn show_life(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.unanswered.show_life().await
}

async fn sweep_holds(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.ledger.sweep(&work.database, work.pace.in_doubt_ttl).await
}

async fn expire_credits(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.expire_credits().await.map(drop)
}

/// What is left over is for the next run.
async fn count_budgets(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.count_budgets(LONG / 2).await
}

async fn tell_budget_events(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.tell_budget_events().await
}

async fn tell_low_balances(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.tell_low_balances().await
}

async fn make_partitions(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.make_partitions().await
}

/// What is left over is for the next run. On a connection of its own: a month of a busy organisation takes a while.
async fn seal_months(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.seal_months(TIDY / 2).await.map(drop)
}

/// What is left over is for the next run.
async fn add_up_entries(work: Arc<JobParts>) -> Result<(), StoreError> {
    // Neither waits for the other to be in order.
    let tasks = work.database.add_tasks_up(LONG / 4).await;
    work.database.add_up(LONG / 2).await.and(tasks)
}

async fn audit(work: Arc<JobParts>) -> Result<(), StoreError> {
    match work.pace.audit {
        Some(every) => audit::run(&work.database, work.ledger.gateway(), every, &work.stop).await,
        None => Ok(()),
    }
}

async fn count_holds(work: Arc<JobParts>) -> Result<(), StoreError> {
    counts::holds(&work.database).await
}

async fn measure_drift(work: Arc<JobParts>) -> Result<(), StoreError> {
    counts::drift(&work.database, &work.accounts).await
}

async fn show_audit(work: Arc<JobParts>) -> Result<(), StoreError> {
    audit::show_result(&work.database).await
}

async fn note_key_uses(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.authenticator.write_down_uses(&work.database).await
}

async fn forget_idempotency_keys(work: Arc<JobParts>) -> Result<(), StoreError> {
    let hours = i32::try_from(work.pace.idempotency_hours).unwrap_or(i32::MAX);
    work.database.forget_old_claims(hours).await?;
    work.database.forget_gone_callers().await
}

async fn erase_content(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.erase_old_content(work.pace.content_days).await.map(drop)
}

async fn forget_dead_gateways(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.forget_dead_gateways().await
}

async fn forget_sessions(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.database.forget_sessions().await
}

async fn forget_idle_limits(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.authenticator.tidy();
    Ok(())
}

/// Folds the samples of histograms into buckets; otherwise they pile up in memory until the metrics are scraped.
async fn fold_metrics(work: Arc<JobParts>) -> Result<(), StoreError> {
    work.metrics.run_upkeep();
    Ok(())
}
