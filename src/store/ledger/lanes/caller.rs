//! Makes the calls of a lane on a connection of its own, and says how to go on after a failed one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor};

use crate::clock::Clock;
use crate::config::Profile;
use crate::fail_point;
use crate::ids::GatewayId;
use crate::metrics as m;
use crate::store::db::error::{BatchFailure, classify};
use crate::store::db::queries::{IDLE, PING_TIMEOUT, is_alive};
use crate::store::db::servers::{PrimaryTerm, Servers};
use crate::store::ledger::lanes::ReserveItem;
use crate::store::ledger::lanes::batch::{self, RowOutcome, RowVerdict};
use crate::store::ledger::lanes::settings::{LaneSettings, lane_options};
use crate::store::ledger::step::NewHold;
use crate::store::ledger::step_queue::StepItem;

/// A connection plans each statement once, perhaps while the tables are empty and every plan seems as good. So it forgets its
/// plans at this age, and each time they may be twice as old as before; a new connection goes on with the present age.
const FIRST_PLANS: Duration = Duration::from_secs(1);
const LAST_PLANS: Duration = Duration::from_secs(600);

pub(super) struct BatchCaller {
    servers: Arc<Servers>,
    owner: GatewayId,
    settings: LaneSettings,
    clock: Clock,
    /// Whether the calls wait for rows that somebody else has locked.
    wait: bool,
    /// The connection, and the turn of the primary that it was made in.
    connection: Option<(PgConnection, PrimaryTerm)>,
    /// When the connection was last handed out.
    used: Instant,
    /// When the connection began to plan, and how old its plans may get.
    plans: (Instant, Duration),
}

/// A call that failed.
pub(super) struct Failed {
    pub(super) failure: BatchFailure,
    /// The error; nothing if the answer did not come in time.
    pub(super) error: Option<Arc<sqlx::Error>>,
    /// Whether some or all of it may have been committed all the same.
    pub(super) maybe_done: bool,
}

impl BatchCaller {
    pub(super) fn new(
        servers: Arc<Servers>,
        owner: GatewayId,
        settings: LaneSettings,
        clock: Clock,
        wait: bool,
    ) -> Self {
        let now = clock.now();
        Self { servers, owner, settings, clock, wait, connection: None, used: now, plans: (now, FIRST_PLANS) }
    }

    /// The verdicts on a batch, in its order.
    pub(super) async fn reserve(&mut self, items: &[ReserveItem]) -> Result<Vec<RowVerdict>, Failed> {
        let started = self.clock.now();
        let (servers, settings, owner, wait) =
            (self.servers.clone(), self.settings.clone(), self.owner, self.wait);
        let resend = items.iter().any(|item| item.resend);
        let result = match self.connect().await {
            Ok((connection, turn)) => {
                fail_point::reach("reserve.before");
                let news: Vec<&NewHold> = items.iter().map(|item| &item.new).collect();
                let call = batch::reserve(connection, owner, &settings, &news, resend, wait);
                in_time(&servers, turn, settings.call_timeout, call).await
            }
            Err(error) => return Err(self.not_connected("reserve", items.len(), error)),
        };
        let verdicts = self.judged("reserve", items.len(), result)?;
        if verdicts.iter().any(|verdict| !matches!(verdict, RowVerdict::Busy)) {
            fail_point::reach("reserve.committed");
        }
        self.measure("reserve", started, items.len());
        Ok(verdicts)
    }

    /// Takes a batch of steps.
    pub(super) async fn transition(&mut self, items: &[StepItem]) -> Result<Vec<RowOutcome>, Failed> {
        let started = self.clock.now();
        let (servers, settings, wait) = (self.servers.clone(), self.settings.clone(), self.wait);
        let result = match self.connect().await {
            Ok((connection, turn)) => {
                let steps: Vec<_> = items.iter().map(|item| (item.org, item.hold, &item.step)).collect();
                let call = batch::transition(connection, settings.profile, &steps, wait);
                in_time(&servers, turn, settings.call_timeout, call).await
            }
            Err(error) => return Err(self.not_connected("transition", items.len(), error)),
        };
        let outcomes = self.judged("transition", items.len(), result)?;
        self.measure("transition", started, items.len());
        Ok(outcomes)
    }

    fn measure(&self, call: &'static str, started: std::time::Instant, items: usize) {
        metrics::histogram!(m::LEDGER_CALL_SECONDS, "call" => call).record(self.clock.since(started));
        metrics::histogram!(m::LEDGER_BATCH_ITEMS, "call" => call).record(items as f64);
    }

    /// Nothing was sent. Whatever kept us from connecting concerns no item.
    fn not_connected(&mut self, call: &'static str, items: usize, error: sqlx::Error) -> Failed {
        metrics::counter!(m::LEDGER_CALL_FAILURES, "call" => call).increment(1);
        tracing::warn!(call, items, %error, "a ledger call failed: no connection");
        self.servers.look_again();
        Failed { failure: BatchFailure::Connection, error: Some(Arc::new(error)), maybe_done: false }
    }

    fn judged<T>(
        &mut self,
        call: &'static str,
        items: usize,
        result: Option<Result<T, sqlx::Error>>,
    ) -> Result<T, Failed> {
        let error = match result {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(error)) => Some(Arc::new(error)),
            None => None,
        };
        metrics::counter!(m::LEDGER_CALL_FAILURES, "call" => call).increment(1);
        let failure = match &error {
            Some(error) => {
                tracing::warn!(call, items, %error, "a ledger call failed");
                classify(error)
            }
            None => {
                tracing::warn!(call, items, "a ledger call was not answered in time; sending it again");
                BatchFailure::Connection
            }
        };
        // An error rolls a call back as far as it had come; with two commits, the first may have been made.
        let rolled_back = error.as_deref().is_some_and(|error| error.as_database_error().is_some())
            && self.settings.profile == Profile::Plain;
        let maybe_done = match failure {
            BatchFailure::Connection => true,
            BatchFailure::Retry | BatchFailure::Locked | BatchFailure::Server => !rolled_back,
            BatchFailure::Item => false,
        };
        match failure {
            BatchFailure::Retry | BatchFailure::Locked | BatchFailure::Item => {}
            // What the connection has prepared may be the reason.
            BatchFailure::Connection | BatchFailure::Server => {
                self.connection = None;
                self.servers.look_again();
            }
        }
        Err(Failed { failure, error, maybe_done })
    }

    async fn connect(&mut self) -> Result<(&mut PgConnection, PrimaryTerm), sqlx::Error> {
        let present = self.servers.turn();
        // A firewall or a NAT on the way may have forgotten a connection that was idle, and tells nobody.
        let idle = self.clock.since(self.used) > IDLE;
        self.used = self.clock.now();
        if idle
            && let Some((connection, turn)) = &mut self.connection
            && *turn == present
            && let Err(error) = is_alive(connection, PING_TIMEOUT.min(self.settings.call_timeout / 5)).await
        {
            tracing::info!(%error, "the connection of a lane is dead; making another one");
            self.connection = None;
        }
        let (planned, last) = self.plans;
        if self.clock.since(planned) > last
            && let Some((connection, turn)) = &mut self.connection
            && *turn == present
        {
            self.plans = (self.used, (last * 2).min(LAST_PLANS));
            // As long as a call may take, because a network that is slow is no reason to connect anew.
            let forget = connection.execute("discard plans");
            if !matches!(in_time(&self.servers, *turn, self.settings.call_timeout, forget).await, Some(Ok(_)))
            {
                tracing::info!("the connection of a lane does not forget its plans; making another one");
                self.connection = None;
            }
        }
        if self.connection.as_ref().is_none_or(|(_, turn)| *turn != present) {
            self.connection = None;
            self.plans.0 = self.used;
            let (server, turn) = self.servers.options();
            let connect = async {
                let mut connection = lane_options(server, &self.settings).connect().await?;
                self.servers.receive(&mut connection).await?;
                Ok::<_, sqlx::Error>(connection)
            };
            let connection = in_time(&self.servers, turn, self.settings.call_timeout, connect)
                .await
                .ok_or(sqlx::Error::PoolTimedOut)??;
            self.connection = Some((connection, turn));
        }
        self.connection.as_mut().map(|(connection, turn)| (connection, *turn)).ok_or(sqlx::Error::PoolClosed)
    }
}

/// How long to wait after so many failures in a row.
pub(super) fn pause(failures: u32) -> Duration {
    let ceiling = Duration::from_millis(10 << failures.saturating_sub(1).min(7));
    ceiling.mul_f64(rand::random_range(0.5..1.0))
}

/// Waits for the answer; `None` if it does not come within `limit`, or if another server became the primary meanwhile:
/// a former primary may never answer, and its answer does not count.
async fn in_time<T>(
    servers: &Servers,
    turn: PrimaryTerm,
    limit: Duration,
    call: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        answer = tokio::time::timeout(limit, call) => answer.ok(),
        () = servers.changed_from(turn) => None,
    }
}
