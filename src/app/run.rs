//! Runs every part, and stops the parts in order.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::{App, Consoles, Listener};
use crate::access::proxies::TrustedProxies;
use crate::admin::router;
use crate::background::{Job, JobError, JobParts, Next};
use crate::config::{Config, ms};
use crate::console::{self, Apis, Audience, mount};
use crate::server::tls::{self, Certificate};
use crate::server::{ServeOptions, serve};
use crate::stack::data_plane;

/// How long the ledger may take to write what is queued, after everything else has stopped. This time is a part of the
/// grace period, unless that is very short.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long each of the last actions may take, so that a silent database does not keep a stopped gateway waiting.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The most connections of the operations listener, at a time.
pub(super) const OPERATIONS_CONNECTIONS: usize = 200;

/// The most bytes in the heads of requests in progress whose callers are known: on the data listener, and on the operations
/// listener.
pub(super) const HEADS: usize = 64 << 20;
pub(super) const OPERATIONS_HEADS: usize = 16 << 20;

/// How long one look at a certificate's files may take.
const CERTIFICATE_DEADLINE: Duration = Duration::from_secs(10);

/// The part of a grace period in which requests and their tasks must end; the rest is for the ledger.
pub(super) fn time_in_flight(grace: Duration) -> Duration {
    grace.saturating_sub(FLUSH_TIMEOUT).max(grace.mul_f64(0.75))
}

/// A gateway that is serving.
struct RunningGateway {
    config: Config,
    work: Arc<JobParts>,
    /// The data listener's task, which ends with its last connection.
    server: JoinHandle<()>,
    /// The operations listener and the jobs.
    background: TaskTracker,
    tasks: TaskTracker,
    stop: CancellationToken,
    draining: CancellationToken,
    /// Cancelled when the last request is recorded; until then the lease is renewed and the operations listener serves.
    drained: CancellationToken,
}

impl App {
    /// Serves until `asked` and, for the configured drain time, after it; then stops accepting, finishes what is in
    /// flight, and writes what is queued. False if the grace period was too short for that.
    pub async fn run(self, asked: CancellationToken) -> bool {
        let mut running = self.serve();
        asked.cancelled().await;
        running.drain().await;
        let finished = running.finish_in_flight().await;
        if !finished {
            tracing::error!(
                "the grace period was too short: another gateway, or the next start, takes over the unfinished work"
            );
        }
        running.farewell().await;
        tracing::info!(finished, "stopped");
        finished
    }

    fn serve(self) -> RunningGateway {
        let background = TaskTracker::new();
        let drained = CancellationToken::new();
        let certificates = [&self.data, &self.admin].map(|listener| listener.certificate.clone());
        let watched = certificates.into_iter().flatten().map(|certificate| {
            let changed = Arc::new(Notify::new());
            background.spawn(tls::hangups(changed.clone(), drained.clone()));
            watch(certificate, changed)
        });
        let watched: Vec<Job> = watched.collect();
        self.work.clone().start(watched, &background, &drained);

        let Listener { socket, certificate } = self.data;
        let options = ServeOptions {
            listener: "data",
            max_connections: self.max_connections,
            max_heads: HEADS,
            write_timeout: ms(self.config.server.write_timeout_ms),
            proxies: TrustedProxies::new(&self.config.server),
            header_timeout: ms(self.config.server.header_timeout_ms),
            tls: certificate,
            drain: self.draining.clone(),
            stop: self.stop.clone(),
        };
        let Listener { socket: admin_socket, certificate } = self.admin;
        // The operations listener serves to the end, because load balancers ask it whether the gateway drains.
        let admin_options = ServeOptions {
            listener: "operations",
            max_connections: OPERATIONS_CONNECTIONS,
            max_heads: OPERATIONS_HEADS,
            tls: certificate,
            drain: drained.clone(),
            stop: drained.clone(),
            ..options.clone()
        };
        let data = data_plane(self.parts);
        let management = router(self.operations, self.api);
        let apis = Apis {
            data: BoxCloneSyncService::new(data.clone().map_response(|answer| answer.map(Body::new))),
            management: BoxCloneSyncService::new(management.clone()),
        };
        let base = self.config.console.base();
        let console = |audience, https| {
            let consoles = self.consoles.as_ref()?;
            Some(console::router(consoles.parts(audience, apis.clone(), https)))
        };
        let members = console(Audience::Members, options.tls.is_some());
        let operators = console(Audience::Operators, admin_options.tls.is_some());
        let management = mount(operators, base, management);
        background.spawn(serve(admin_socket, management, admin_options));
        let server = background.spawn(serve(socket, mount(members, base, data), options));
        RunningGateway {
            config: self.config,
            work: self.work,
            server,
            background,
            tasks: self.tasks,
            stop: self.stop,
            draining: self.draining,
            drained,
        }
    }
}

impl Consoles {
    fn parts(&self, audience: Audience, apis: Apis, https: bool) -> console::Parts {
        console::Parts {
            audience,
            settings: self.settings.clone(),
            authenticator: self.authenticator.clone(),
            proxies: self.proxies.clone(),
            bodies: self.bodies.clone(),
            limits: self.limits.clone(),
            apis,
            https,
        }
    }
}

/// The job that takes over a changed certificate. It looks at once when `changed` is notified.
fn watch(certificate: Arc<Certificate>, changed: Arc<Notify>) -> Job {
    let name = format!("watch {} certificate", certificate.listener());
    let look = move || {
        let looking = certificate.clone().look();
        async move { looking.await.map(|()| Next::Interval).map_err(|error| JobError::Other(error.to_string())) }
    };
    Job::new(name, tls::LOOK, CERTIFICATE_DEADLINE, look).until_drained().woken_by(changed)
}

impl RunningGateway {
    /// Keeps serving, but tells load balancers and clients to go elsewhere.
    async fn drain(&self) {
        self.draining.cancel();
        let drain_ms = self.config.server.drain_ms;
        if drain_ms > 0 {
            tracing::info!(for_ms = drain_ms, "draining: not ready any more, but serving");
            tokio::time::sleep(ms(drain_ms)).await;
        }
    }

    /// Accepts nothing more, and waits for requests, their tasks and the ledger's queue. False if not all of them ended
    /// in time.
    async fn finish_in_flight(&mut self) -> bool {
        self.stop.cancel();
        tracing::info!("stopping: finishing what is in flight");
        let grace = ms(self.config.server.shutdown_grace_ms);
        let in_order = async {
            let _ = (&mut self.server).await;
            self.tasks.close();
            self.tasks.wait().await;
        };
        // A client that is slow to send its request or to read our answer does not count: everything at stake for it is
        // recorded.
        let finished = tokio::time::timeout(time_in_flight(grace), in_order).await.is_ok() || {
            self.tasks.close();
            self.tasks.is_empty()
        };
        finished & tokio::time::timeout(FLUSH_TIMEOUT, self.work.ledger.shut_down()).await.is_ok()
    }

    /// Ends the jobs and the operations listener, ends the lease, and sends the last spans.
    async fn farewell(self) {
        self.drained.cancel();
        self.background.close();
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, self.background.wait()).await;
        let last = tokio::time::timeout(FAREWELL_TIMEOUT, self.work.lease.end());
        let (ended, ()) = tokio::join!(last, self.work.tracing.shut_down(FAREWELL_TIMEOUT));
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be ended; it ends by itself"),
            Err(_) => tracing::warn!("the lease could not be ended in time; it ends by itself"),
        }
    }
}
