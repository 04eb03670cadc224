//! What is due: tasks to be polled, holds that no gateway works on, doubts past their age. Any number of gateways share
//! this work without a leader.
//!
//! A claim is a lease on a task. It moves the task's next poll into the future, so that another gateway claims the task
//! if the claimer dies; it skips tasks that another gateway is claiming at the moment; and it increments `polls`, by which
//! the next polls come later and later. Evidence needs no claim: it ends the task whoever brings it, and only once.

use std::time::Duration;

use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::{GatewayId, HoldId, OrgId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::ledger::step::Terms;
use crate::store::ledger::tasks::{COLUMNS, STORED, TERMS, Task, task};

/// The most holds that one look returns; the next look finds the rest.
const SOME: i64 = 1000;

/// Places in which HELD holds are: owners of which each has some, given as `of (owner)`, and each with the organisations of its
/// holds. Every place is found by a step in the index, however many holds there are.
const PLACES_OF_HELD: &str = "place (owner, org_id) as ( \
         select of.owner, (select o.org_id from open_task o where o.state = 'HELD' and o.owner = of.owner order by o.org_id limit 1) \
         from of \
         union all \
         select p.owner, (select o.org_id from open_task o where o.state = 'HELD' and o.owner = p.owner and o.org_id > p.org_id \
                          order by o.org_id limit 1) \
         from place p where p.org_id is not null)";

/// The owners of HELD holds whose lease has ended; `$1`: the gateway that asks.
const DEAD_OWNERS: &str = "held_by (owner) as ( \
         (select o.owner from open_task o where o.state = 'HELD' order by o.owner limit 1) \
         union all \
         select (select o.owner from open_task o where o.state = 'HELD' and o.owner > h.owner order by o.owner limit 1) \
         from held_by h where h.owner is not null), \
     of (owner) as (select h.owner from held_by h left join gateway g on g.gateway_id = h.owner \
         where h.owner <> $1 and (g.gateway_id is null or g.alive_until < now()))";

/// The organisations that have doubts.
const PLACES_OF_DOUBTS: &str = "place (org_id) as ( \
         (select o.org_id from open_task o where o.state = 'IN_DOUBT' order by o.org_id limit 1) \
         union all \
         select (select o.org_id from open_task o where o.state = 'IN_DOUBT' and o.org_id > p.org_id order by o.org_id limit 1) \
         from place p where p.org_id is not null)";

/// Common table expressions of which the last, `chosen (org_id, hold_id)`, has the holds of one look: places take turns, first the
/// oldest hold of each, then the second of each (`rows`: else all that are equally old would be read at once). `places` defines `place`, `of_place` says which tasks `o` a place `p` has, and
/// `at` is the column by which they are old. What is read does not grow with the holds of a place: of all
/// places together at most three times [`SOME`] holds.
fn in_turns(places: &str, of_place: &str, at: &str) -> String {
    format!(
        "with recursive {places}, \
         waiting as (select p.*, first.since from place p cross join lateral \
             (select o.{at} as since from open_task o where {of_place} order by o.{at} limit 1) first \
             order by first.since limit {SOME}), \
         turns as (select d.org_id, d.hold_id, d.since, d.turn from waiting p cross join lateral \
             (select o.org_id, o.hold_id, o.{at} as since, row_number() over (order by o.{at} rows unbounded preceding) as turn \
              from open_task o where {of_place} order by o.{at} \
              limit (select 2 * {SOME} / greatest(count(*), 1) + 1 from waiting)) d), \
         chosen as (select t.org_id, t.hold_id from turns t order by t.turn, t.since limit {SOME})"
    )
}

/// The terms of the holds that were chosen. A hold is found in its partition by its id.
const CHOSEN_WITH_TERMS: &str = "from chosen c cross join lateral (select h.amount, h.list_price from hold h \
     where h.org_id = c.org_id and h.hold_id = c.hold_id limit 1) h";

impl Database {
    /// Claims tasks of `backend` that are due and moves the next poll of each `again_in` away (longer with each poll,
    /// and jittered); the next poll of a task in doubt is moved far away.
    ///
    /// Organisations take turns: the first due task of each, then the second of each, so that nobody waits for the
    /// backlog of another. None of those in `but` has a turn.
    pub async fn claim_due(
        &self,
        backend: &str,
        limit: u32,
        again_in: Duration,
        but: &[OrgId],
    ) -> Result<Vec<Task>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "with recursive reopened (org_id) as ( \
                 (select o.org_id from open_task o where o.reopened order by o.org_id limit 1) \
                 union all \
                 select (select o.org_id from open_task o where o.reopened and o.org_id > r.org_id order by o.org_id limit 1) \
                 from reopened r where r.org_id is not null \
             ), again as ( \
                 select r.org_id from reopened r cross join lateral ( \
                     select o.due_at from open_task o where o.org_id = r.org_id and o.backend = $3 and o.due_at <= now() \
                     and o.reopened order by o.due_at limit 1) first where r.org_id <> all ($4) order by first.due_at limit $1 \
             ), waiting as ( \
                 select b.org_id from org_balance b cross join lateral ( \
                     select o.due_at from open_task o where o.org_id = b.org_id and o.backend = $3 and o.due_at <= now() \
                     and o.upstream_task is not null and not o.reopened order by o.due_at limit 1) first \
                 where (b.open_tasks > 0 or b.in_doubt > 0) and b.org_id <> all ($4) order by first.due_at limit $1 \
             ), turns as ( \
                 select d.org_id, d.hold_id, d.due_at, d.turn from waiting w cross join lateral ( \
                     select o.org_id, o.hold_id, o.due_at, row_number() over (order by o.due_at rows unbounded preceding) as turn \
                     from open_task o where o.org_id = w.org_id and o.backend = $3 and o.due_at <= now() \
                     and o.upstream_task is not null and not o.reopened order by o.due_at limit $1) d \
                 union all \
                 select d.org_id, d.hold_id, d.due_at, d.turn from again w cross join lateral ( \
                     select o.org_id, o.hold_id, o.due_at, row_number() over (order by o.due_at rows unbounded preceding) as turn \
                     from open_task o where o.org_id = w.org_id and o.backend = $3 and o.due_at <= now() \
                     and o.reopened order by o.due_at limit $1) d \
             ), claimed as materialized ( \
                 select t.org_id, t.hold_id, c.open_state as state, c.reopened, c.upstream_task, c.raw_consumed, c.reason, c.recorded_at, c.polls, c.by_hand \
                 from (select * from turns order by turn, due_at limit $1) t \
                 cross join lateral claim_open_task(t.org_id, t.hold_id, $2) c where c.open_state is not null \
             ) select {COLUMNS} from (select {STORED} from claimed o cross join lateral ( \
                 select {TERMS} from hold h where h.org_id = o.org_id and h.hold_id = o.hold_id limit 1) h) task"
        )))
        .bind(i64::from(limit))
        .bind(i64::try_from(again_in.as_millis()).unwrap_or(i64::MAX))
        .bind(backend)
        .bind(but.iter().map(|org| org.as_uuid()).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(task).collect()
    }

    /// How late the oldest due poll is, in seconds.
    pub async fn poll_lag_seconds(&self) -> Result<f64, StoreError> {
        let lag: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from now() - min(due_at))::float8 from open_task where upstream_task is not null and state = 'RUNNING' and not reopened and due_at <= now()",
        )
        .fetch_one(self.pool())
        .await?;
        Ok(lag.unwrap_or(0.0))
    }

    /// HELD holds of `owner` that are past their grace period. Organisations take turns.
    pub async fn overdue_holds(&self, owner: GatewayId) -> Result<Vec<(OrgId, HoldId, Terms)>, StoreError> {
        let places = format!("of (owner) as (select $1::uuid), {PLACES_OF_HELD}");
        let of_place = "o.state = 'HELD' and o.owner = p.owner and o.org_id = p.org_id and o.due_at < now()";
        let rows: Vec<(Uuid, Uuid, i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{} select c.org_id, c.hold_id, h.amount, h.list_price {CHOSEN_WITH_TERMS}",
            in_turns(&places, of_place, "due_at")
        )))
        .bind(owner.as_uuid())
        .fetch_all(self.pool())
        .await?;
        let row = |(org, hold, amount, list_price)| {
            (OrgId::from_uuid(org), HoldId::from_uuid(hold), terms(amount, list_price))
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// HELD holds of other gateways whose lease has ended: their creates may have been sent. Organisations take turns.
    pub async fn orphaned_holds(&self, me: GatewayId) -> Result<Vec<(OrgId, HoldId)>, StoreError> {
        let places = format!("{DEAD_OWNERS}, {PLACES_OF_HELD}");
        let of_place = "o.state = 'HELD' and o.owner = p.owner and o.org_id = p.org_id";
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{} select c.org_id, c.hold_id from chosen c",
            in_turns(&places, of_place, "due_at")
        )))
        .bind(me.as_uuid())
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(ids).collect())
    }

    /// Doubts older than `age`, each with the platform's possible loss: the vendor's last figure, or else the list
    /// price. Organisations take turns.
    pub async fn expired_doubts(
        &self,
        age: Duration,
    ) -> Result<Vec<(OrgId, HoldId, Terms, Credits)>, StoreError> {
        let of_place =
            "o.state = 'IN_DOUBT' and o.org_id = p.org_id and o.doubt_at < now() - $1 * interval '1 second'";
        let rows: Vec<(Uuid, Uuid, i64, i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{} select c.org_id, c.hold_id, h.amount, h.list_price, \
               case when o.raw_consumed between 1 and h.list_price::numeric * 100 then o.raw_consumed else h.list_price end \
             {CHOSEN_WITH_TERMS} join open_task o on o.org_id = c.org_id and o.hold_id = c.hold_id",
            in_turns(PLACES_OF_DOUBTS, of_place, "doubt_at")
        )))
        .bind(age.as_secs_f64())
        .fetch_all(self.pool())
        .await?;
        let row = |(org, hold, amount, list_price, loss)| {
            (OrgId::from_uuid(org), HoldId::from_uuid(hold), terms(amount, list_price), Credits::new(loss))
        };
        Ok(rows.into_iter().map(row).collect())
    }
}

fn terms(amount: i64, list_price: i64) -> Terms {
    Terms { amount: Credits::new(amount), list_price: Credits::new(list_price) }
}

fn ids((org, hold): (Uuid, Uuid)) -> (OrgId, HoldId) {
    (OrgId::from_uuid(org), HoldId::from_uuid(hold))
}
