//! Runs background jobs: work that is repeated and that nobody waits for.
//!
//! Each job is a task of its own, with its own interval, deadline and metrics, so that a job that hangs or fails
//! disturbs no other. A run that reaches its deadline is cancelled, and the next run begins after the usual interval. A
//! run uses one database connection at a time, and the pool has one for each job.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::{Counter, Gauge, Histogram};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::metrics as m;
use crate::store::StoreError;

/// A job counts as stuck when it has not succeeded for this many of its intervals, but not before [`LEAST_SILENCE`].
const STUCK_AFTER_INTERVALS: u32 = 10;
const LEAST_SILENCE: Duration = Duration::from_secs(60);

/// Jobs that run at the start begin within this time, spread at random, so that they do not all connect to the database
/// at once.
const SPREAD: Duration = Duration::from_millis(500);

/// Why a run of a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Other(String),
}

impl JobError {
    fn is_time_out(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_time_out())
    }
}

/// When a job runs next after a successful run.
pub enum Next {
    Interval,
    /// As soon as this future completes: there is more work, and the future waits until it can be done.
    Ready(BoxFuture<'static, ()>),
}

/// How long a job lives: until no more requests are accepted, or until the last request is recorded.
enum Until {
    Stop,
    Drained,
}

type Run = Box<dyn FnMut() -> BoxFuture<'static, Result<Next, JobError>> + Send>;

/// One row of the table of jobs.
pub struct Job {
    name: String,
    interval: Duration,
    deadline: Duration,
    until: Until,
    at_once: bool,
    once_more: bool,
    wake: Option<Arc<Notify>>,
    run: Run,
}

impl Job {
    /// A job that first runs after its interval. Each interval is varied by up to a quarter at random, so that gateways
    /// that were started together do not stay in step.
    pub fn new<F, R>(name: impl Into<String>, interval: Duration, deadline: Duration, mut run: F) -> Self
    where
        F: FnMut() -> R + Send + 'static,
        R: Future<Output = Result<Next, JobError>> + Send + 'static,
    {
        Self {
            name: name.into(),
            interval,
            deadline,
            until: Until::Stop,
            at_once: false,
            once_more: false,
            wake: None,
            run: Box::new(move || run().boxed()),
        }
    }

    /// Makes the job run at the start too.
    pub fn at_once(self) -> Self {
        Self { at_once: true, ..self }
    }

    /// Keeps the job running while the last requests are recorded.
    pub fn until_drained(self) -> Self {
        Self { until: Until::Drained, ..self }
    }

    /// Makes the job run once more at its end.
    pub fn once_more(self) -> Self {
        Self { once_more: true, ..self }
    }

    /// Makes the job run also whenever `wake` is notified.
    pub fn woken_by(self, wake: Arc<Notify>) -> Self {
        Self { wake: Some(wake), ..self }
    }

    /// Starts the job. It ends with `drained` if it was made with `until_drained`, else with `stop`; a run in progress
    /// is completed.
    pub fn start(self, tasks: &TaskTracker, stop: &CancellationToken, drained: &CancellationToken) {
        let end = match self.until {
            Until::Stop => stop.clone(),
            Until::Drained => drained.clone(),
        };
        tasks.spawn(self.work(end, Clock));
    }

    async fn work(mut self, end: CancellationToken, clock: Clock) {
        let shown = JobMetrics::of(&self, clock);
        let mut on = self.wait(&end, self.first()).await;
        while on {
            let next = self.run_once(&shown, clock).await;
            on = self.wait(&end, next).await;
        }
        if self.once_more {
            self.run_once(&shown, clock).await;
        }
    }

    fn first(&self) -> Next {
        if !self.at_once {
            return Next::Interval;
        }
        let spread = SPREAD.min(self.interval).mul_f64(rand::random_range(0.0..1.0));
        Next::Ready(tokio::time::sleep(spread).boxed())
    }

    /// Waits until the job is due. False if the job has ended.
    async fn wait(&mut self, end: &CancellationToken, next: Next) -> bool {
        let waiting = async {
            match next {
                Next::Ready(ready) => ready.await,
                Next::Interval => {
                    let pause = self.interval.mul_f64(rand::random_range(0.75..1.25));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = woken(self.wake.as_deref()) => {}
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = end.cancelled() => false,
            () = waiting => true,
        }
    }

    async fn run_once(&mut self, shown: &JobMetrics, clock: Clock) -> Next {
        let begun = clock.now();
        // A panic must not end the job, because nobody would notice.
        let run = AssertUnwindSafe((self.run)()).catch_unwind();
        let ended = tokio::time::timeout(self.deadline, run).await;
        shown.seconds.record(clock.since(begun));
        let job = &self.name;
        match ended {
            Ok(Ok(Ok(next))) => {
                shown.ok.increment(1);
                shown.last_success.set(clock.wall().unix_timestamp() as f64);
                return next;
            }
            Ok(Ok(Err(error))) => {
                let counter = if error.is_time_out() { &shown.timed_out } else { &shown.failed };
                counter.increment(1);
                tracing::warn!(job, %error, "a background job failed and is tried again");
            }
            Ok(Err(_)) => {
                shown.failed.increment(1);
                tracing::error!(job, "a background job panicked and is tried again");
            }
            Err(_) => {
                shown.timed_out.increment(1);
                let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(
                    job,
                    deadline_ms,
                    "a background job was cancelled at its deadline and is tried again"
                );
            }
        }
        Next::Interval
    }
}

async fn woken(wake: Option<&Notify>) {
    match wake {
        Some(wake) => wake.notified().await,
        None => std::future::pending().await,
    }
}

/// The metrics of one job.
struct JobMetrics {
    ok: Counter,
    failed: Counter,
    timed_out: Counter,
    seconds: Histogram,
    last_success: Gauge,
}

impl JobMetrics {
    fn of(job: &Job, clock: Clock) -> Self {
        let name = || job.name.clone();
        let runs = |outcome: &'static str| {
            let counter = metrics::counter!(m::JOB_RUNS, "job_name" => name(), "outcome" => outcome);
            // An alarm on an increase misses the first event of a counter that did not exist.
            counter.increment(0);
            counter
        };
        let last_success = metrics::gauge!(m::JOB_LAST_SUCCESS, "job_name" => name());
        last_success.set(clock.wall().unix_timestamp() as f64);
        let silence = job.interval.saturating_mul(STUCK_AFTER_INTERVALS).max(LEAST_SILENCE);
        metrics::gauge!(m::JOB_STUCK_AFTER, "job_name" => name()).set(silence.saturating_add(job.deadline));
        Self {
            ok: runs("ok"),
            failed: runs("failed"),
            timed_out: runs("timed out"),
            seconds: metrics::histogram!(m::JOB_SECONDS, "job_name" => name()),
            last_success,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);

    struct Running {
        tasks: TaskTracker,
        stop: CancellationToken,
        drained: CancellationToken,
    }

    impl Running {
        fn start(job: Job) -> Self {
            let (tasks, stop, drained) =
                (TaskTracker::new(), CancellationToken::new(), CancellationToken::new());
            job.start(&tasks, &stop, &drained);
            Self { tasks, stop, drained }
        }

        async fn ended(self) {
            self.tasks.close();
            self.tasks.wait().await;
        }
    }

    /// A job that counts its runs and then does what `how` says.
    fn job<R>(how: impl Fn(u32) -> R + Send + 'static) -> (Arc<AtomicU32>, Job)
    where
        R: Future<Output = Result<Next, JobError>> + Send + 'static,
    {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let run = move || how(counted.fetch_add(1, Ordering::Relaxed) + 1);
        (runs, Job::new("a job", Duration::from_secs(10), Duration::from_secs(5), run))
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_begins_anew_after_a_failure_a_panic_and_a_run_without_end() {
        let (runs, job) = job(|run| async move {
            match run {
                1 => Err(JobError::Other("no".into())),
                2 => panic!("a slip"),
                3 => std::future::pending().await,
                _ => Ok(Next::Interval),
            }
        });
        let running = Running::start(job);
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert!(runs.load(Ordering::Relaxed) > 5, "{runs:?}");
        running.stop.cancel();
        running.ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ready_does_not_wait_for_the_interval() {
        let (runs, job) = job(|run| async move {
            let ready = std::future::ready(()).boxed();
            Ok(if run < 100 { Next::Ready(ready) } else { Next::Interval })
        });
        let _running = Running::start(job);
        tokio::time::sleep(Duration::from_secs(13)).await;
        assert_eq!(runs.load(Ordering::Relaxed), 100, "after the first interval");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_is_woken_and_runs_a_last_time() {
        let wake = Arc::new(Notify::new());
        let (runs, job) = job(|_| async { Ok(Next::Interval) });
        let job = Job { interval: NEVER, ..job };
        let running = Running::start(job.at_once().until_drained().once_more().woken_by(wake.clone()));
        let seen = async |expected: u32| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(runs.load(Ordering::Relaxed), expected);
        };
        seen(1).await;
        wake.notify_one();
        seen(2).await;
        running.stop.cancel();
        wake.notify_one();
        seen(3).await;
        running.drained.cancel();
        running.ended().await;
        assert_eq!(runs.load(Ordering::Relaxed), 4);
    }
}
