//! The ledger of a running gateway: it reserves, takes steps, sweeps, and finds the tasks that are due.

pub(in crate::store) mod adopt;
pub(in crate::store) mod by_hand;
pub(in crate::store) mod claims;
pub(in crate::store) mod doubts;
pub(in crate::store) mod due;
pub(in crate::store) mod entry_kind;
pub(in crate::store) mod guard;
pub(in crate::store) mod lanes;
pub(in crate::store) mod lease;
pub(in crate::store) mod metered;
pub(in crate::store) mod proof;
pub(in crate::store) mod running;
pub(in crate::store) mod step;
pub(in crate::store) mod step_queue;
pub(in crate::store) mod task_lists;
pub(in crate::store) mod tasks;
pub(in crate::store) mod texts;
pub(in crate::store) mod unanswered;

use std::time::Duration;

use self::guard::Verdict;
use self::lanes::Lanes;
use self::lanes::settings::LaneSettings;
use self::step::{Applied, NewHold, Step, Terms};
use self::tasks::Task;
use crate::clock::Clock;
use crate::fail_point;
use crate::ids::{GatewayId, HoldId, OrgId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::shared::{SharedDatabase, Turn};

/// The ledger of a running gateway.
#[derive(Debug, Clone)]
pub struct Ledger {
    database: SharedDatabase<OrgId>,
    lanes: Lanes,
    gateway: GatewayId,
    reserve_timeout: Duration,
    clock: Clock,
}

impl Ledger {
    /// Starts the lanes. `reserve_timeout` is the longest that a caller waits for a reservation.
    pub fn start(
        database: impl Into<SharedDatabase<OrgId>>,
        gateway: GatewayId,
        settings: &LaneSettings,
        reserve_timeout: Duration,
        clock: Clock,
    ) -> Self {
        let database = database.into();
        let lanes = Lanes::start(database.servers(), gateway, settings, clock);
        Self { database, lanes, gateway, reserve_timeout, clock }
    }

    /// A turn of this organisation at the pool for everything that is not on the paid path.
    pub async fn turn_of(&self, org: OrgId) -> Result<Turn<OrgId>, StoreError> {
        self.database.turn_of(org).await
    }

    /// The pool for everything that is not on the paid path.
    pub fn readers(&self) -> &SharedDatabase<OrgId> {
        &self.database
    }

    /// The gateway that owns this ledger's holds.
    pub fn gateway(&self) -> GatewayId {
        self.gateway
    }

    /// Reserves credits durably, or says why not. After an error nothing is granted: a grant that comes too late is
    /// released.
    pub async fn reserve(&self, new: NewHold) -> Result<Verdict, StoreError> {
        let deadline = self.clock.now() + self.reserve_timeout;
        let verdict = self.lanes.reserve(new, deadline).await;
        metered::verdict(&verdict);
        verdict
    }

    /// Takes a step and waits until it is durable. The lane repeats it until the database takes it, even if no caller
    /// waits.
    pub async fn step(&self, org: OrgId, hold: HoldId, step: Step) -> Result<Applied, StoreError> {
        self.lanes.steps().step(org, hold, None, step).await.unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Does the same for a task that was read, so that the metrics can count the credits that the step moves.
    pub async fn step_of(&self, task: &Task, step: Step) -> Result<Applied, StoreError> {
        let taken = self.lanes.steps().step(task.org, task.hold, Some(task.terms()), step);
        taken.await.unwrap_or(Err(StoreError::ShuttingDown))
    }

    /// Releases HELD holds of this gateway that no request works on, puts the HELD holds of dead gateways in doubt, and
    /// writes off doubts older than `in_doubt_ttl`.
    ///
    /// The holds are looked up through `database`, because the callers' pool may be full.
    pub async fn sweep(&self, database: &Database, in_doubt_ttl: Duration) -> Result<(), StoreError> {
        self.lanes.steps().sweep(&database.overdue_holds(self.gateway).await?);
        let orphans = database.orphaned_holds(self.gateway).await?;
        if !orphans.is_empty() {
            fail_point::reach("sweep.before");
        }
        let orphans = orphans.into_iter().map(|(org, hold)| (org, hold, None, Step::Orphan));
        let expired = database.expired_doubts(in_doubt_ttl).await?.into_iter();
        let expired = expired.map(|(org, hold, terms, possible_loss)| {
            (org, hold, Some(terms), Step::WriteOff { possible_loss })
        });
        self.take_over_all(orphans.chain(expired)).await
    }

    /// Takes all steps concurrently, so that they share few batches, and so that one that waits or fails keeps no other
    /// from being taken. The first error is returned.
    async fn take_over_all(
        &self,
        holds: impl Iterator<Item = (OrgId, HoldId, Option<Terms>, Step)>,
    ) -> Result<(), StoreError> {
        let steps = holds.map(|(org, hold, terms, step)| self.take_over(org, hold, terms, step));
        futures_util::future::join_all(steps).await.into_iter().collect()
    }

    async fn take_over(
        &self,
        org: OrgId,
        hold: HoldId,
        terms: Option<Terms>,
        step: Step,
    ) -> Result<(), StoreError> {
        let kind = step.kind().as_str();
        if self.is_set_aside(hold) {
            return Ok(());
        }
        // What an earlier sweep has queued still waits, and will be taken.
        let Some(taken) = self.lanes.steps().step_once(org, hold, terms, step) else { return Ok(()) };
        if taken.await.unwrap_or(Err(StoreError::ShuttingDown))? == Applied::Yes {
            tracing::error!(%org, %hold, kind, "a task has no known outcome: its hold is in doubt or written off");
        }
        Ok(())
    }

    /// Whether the database refuses a step for this hold, which is tried again now and then. Another step for it would
    /// be refused as well.
    pub fn is_set_aside(&self, hold: HoldId) -> bool {
        self.lanes.has_set_aside(hold)
    }

    /// Finishes the queued work, then ends the lanes.
    pub async fn shut_down(&self) {
        self.lanes.shut_down().await;
    }
}
