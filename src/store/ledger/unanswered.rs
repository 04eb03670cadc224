//! Creates without an idempotency key whose callers have gone before the answer, and what became of such a create.

use std::time::Duration;

use sqlx::Row;
use uuid::Uuid;

use crate::ids::{GatewayId, HoldId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::once::Fingerprint;
use crate::store::ledger::tasks::{COLUMNS, State, Task, task};
use crate::store::ledger::texts::{StoredText, TaskText};

/// How long a note of a caller that has gone is kept. It counts for a shorter time: see `repeated_creates`.
const KEPT_MINUTES: i32 = 60;

/// The most notes that one statement deletes.
const SOME: i64 = 5000;

/// A question to a gateway whether it lives.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    pub gateway: GatewayId,
    asked: i64,
}

/// What is known of a gateway that was asked whether it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It lives, and has noted all callers that it saw leave before.
    Answered,
    /// Its lease has lapsed: it may never answer.
    Lapsed,
}

impl Database {
    /// Notes durably that the callers of these creates have gone, or have closed their side, without having been answered.
    /// A create with an idempotency key needs no note, and gets none.
    pub async fn note_gone_callers(&self, creates: &[(OrgId, HoldId)]) -> Result<(), StoreError> {
        let (orgs, holds): (Vec<Uuid>, Vec<Uuid>) =
            creates.iter().map(|(org, hold)| (org.as_uuid(), hold.as_uuid())).unzip();
        sqlx::query(
            "insert into gone_caller (org_id, user_id, fingerprint, hold_id) \
             select h.org_id, h.user_id, h.fingerprint, h.hold_id \
             from unnest($1::uuid[], $2::uuid[]) n(org_id, hold_id) cross join lateral \
             (select own.org_id, own.user_id, own.fingerprint, own.hold_id from hold own \
              where own.org_id = n.org_id and own.hold_id = n.hold_id and own.idem_key is null limit 1) h \
             on conflict (org_id, user_id, fingerprint, hold_id) do nothing",
        )
        .bind(orgs)
        .bind(holds)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Deletes the note of a caller that has gone: somebody gets the answer to that create. False: there was none, and somebody
    /// else has got it.
    pub async fn forget_gone_caller(&self, org: OrgId, hold: HoldId) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "delete from gone_caller g using hold h where h.org_id = $1 and h.hold_id = $2 and g.org_id = h.org_id \
             and g.user_id = h.user_id and g.fingerprint = h.fingerprint and g.hold_id = h.hold_id",
        )
        .bind(org.as_uuid())
        .bind(hold.as_uuid())
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Deletes the notes that do not count any more, some thousands at a time.
    pub async fn forget_gone_callers(&self) -> Result<(), StoreError> {
        loop {
            let done = sqlx::query(
                "delete from gone_caller where (org_id, user_id, fingerprint, hold_id) in ( \
                     select g.org_id, g.user_id, g.fingerprint, g.hold_id from gone_caller g \
                     where g.noted_at < now() - make_interval(mins => $1) limit $2)",
            )
            .bind(KEPT_MINUTES)
            .bind(SOME)
            .execute(self.pool())
            .await?;
            if i64::try_from(done.rows_affected()).unwrap_or(i64::MAX) < SOME {
                return Ok(());
            }
        }
    }

    /// The create of this user with this body that is unanswered although its caller has gone.
    pub async fn left_alone(
        &self,
        org: OrgId,
        user: UserId,
        body: Fingerprint,
    ) -> Result<Option<HoldId>, StoreError> {
        let hold: Option<Uuid> = sqlx::query_scalar(
            "select known.earlier from repeated_creates(array[$1::uuid], array[1], array[$2::uuid], array[$3::uuid], \
             array[$4::bytea], array[true], clock_timestamp()) known",
        )
        .bind(org.as_uuid())
        .bind(Uuid::nil())
        .bind(user.as_uuid())
        .bind(body.as_bytes())
        .fetch_optional(self.pool())
        .await?;
        Ok(hold.map(HoldId::from_uuid))
    }

    /// What the create `own` gives way to, which has its hold and whose caller may have gone: another one of this user with this body,
    /// which the vendor has accepted in this last time, which has no answer yet, or which is in doubt. `None`: it is noted that the caller has gone.
    pub async fn give_way(
        &self,
        own: HoldId,
        org: OrgId,
        user: UserId,
        body: Fingerprint,
        ago: Duration,
    ) -> Result<Option<HoldId>, StoreError> {
        let other: Option<Uuid> =
            sqlx::query_scalar("select other from give_way($1, $2, $3, $4, make_interval(secs => $5))")
                .bind(org.as_uuid())
                .bind(user.as_uuid())
                .bind(body.as_bytes())
                .bind(own.as_uuid())
                .bind(ago.as_secs_f64())
                .fetch_one(self.pool())
                .await?;
        Ok(other.map(HoldId::from_uuid))
    }

    /// The creates of this user with this body that are unanswered, and the gateways that their callers were connected to.
    pub async fn unanswered(
        &self,
        org: OrgId,
        user: UserId,
        body: Fingerprint,
    ) -> Result<Vec<(HoldId, GatewayId)>, StoreError> {
        let rows: Vec<(Uuid, Uuid)> = sqlx::query_as(
            "select o.hold_id, o.owner from (select n.hold_id, n.owner from open_task n \
                 where n.org_id = $1 and n.unanswered = $3 offset 0) o \
             cross join lateral (select from hold h where h.org_id = $1 and h.hold_id = o.hold_id and h.user_id = $2 limit 1) own \
             order by o.hold_id",
        )
        .bind(org.as_uuid())
        .bind(user.as_uuid())
        .bind(body.as_bytes())
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|(hold, owner)| (HoldId::from_uuid(hold), GatewayId::from_uuid(owner)))
            .collect())
    }

    /// Asks gateways for a sign of life. They are woken by the notification that changes are announced with.
    pub async fn ask_for_life(&self, gateways: &[GatewayId]) -> Result<Vec<Question>, StoreError> {
        let rows: Vec<(Uuid, i64, bool)> = sqlx::query_as(
            "with asked as (insert into sign_of_life as s (gateway_id, asked) \
                 select a.gateway_id, 1 from unnest($1::uuid[]) a(gateway_id) order by a.gateway_id \
                 on conflict (gateway_id) do update set asked = s.asked + 1 returning s.gateway_id, s.asked), \
             told as (select pg_notify('tollgate_epoch', 'asked')) \
             select a.gateway_id, a.asked, (select count(*) > 0 from told) from asked a",
        )
        .bind(gateways.iter().map(|gateway| gateway.as_uuid()).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        let question = |(gateway, asked, _)| Question { gateway: GatewayId::from_uuid(gateway), asked };
        Ok(rows.into_iter().map(question).collect())
    }

    /// What is known by now of the gateways that these questions were put to; nothing of one that lives and has not answered.
    pub async fn signs_of_life(&self, questions: &[Question]) -> Result<Vec<(GatewayId, Sign)>, StoreError> {
        let rows: Vec<(Uuid, bool)> = sqlx::query_as(
            "select q.gateway_id, coalesce(s.heard >= q.asked, false) from unnest($1::uuid[], $2::bigint[]) q(gateway_id, asked) \
             left join sign_of_life s on s.gateway_id = q.gateway_id left join gateway g on g.gateway_id = q.gateway_id \
             where s.heard >= q.asked or coalesce(g.alive_until < clock_timestamp(), true)",
        )
        .bind(questions.iter().map(|question| question.gateway.as_uuid()).collect::<Vec<_>>())
        .bind(questions.iter().map(|question| question.asked).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        let sign = |heard| if heard { Sign::Answered } else { Sign::Lapsed };
        Ok(rows.into_iter().map(|(gateway, heard)| (GatewayId::from_uuid(gateway), sign(heard))).collect())
    }

    /// The number by which `gateway` was asked for a sign of life, and has not answered yet.
    pub async fn asked_for_life(&self, gateway: GatewayId) -> Result<Option<i64>, StoreError> {
        let asked = sqlx::query_scalar(
            "select s.asked from sign_of_life s where s.gateway_id = $1 and s.asked > s.heard",
        );
        Ok(asked.bind(gateway.as_uuid()).fetch_optional(self.pool()).await?)
    }

    /// The answer of `gateway` to all questions up to this number.
    pub async fn show_life(&self, gateway: GatewayId, asked: i64) -> Result<(), StoreError> {
        sqlx::query("update sign_of_life set heard = greatest(heard, $2) where gateway_id = $1")
            .bind(gateway.as_uuid())
            .bind(asked)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Whether the outcome of this create is not recorded yet.
    pub async fn is_held(&self, org: OrgId, hold: HoldId) -> Result<bool, StoreError> {
        let state: Option<State> =
            sqlx::query_scalar("select o.state from open_task o where o.org_id = $1 and o.hold_id = $2")
                .bind(org.as_uuid())
                .bind(hold.as_uuid())
                .fetch_optional(self.pool())
                .await?;
        Ok(state == Some(State::Held))
    }

    /// The task of a create, and the vendor's `data` of its answer to it, as far as they are stored.
    pub async fn created_task(
        &self,
        org: OrgId,
        hold: HoldId,
    ) -> Result<Option<(Task, Option<StoredText>)>, StoreError> {
        let first = TaskText::First.columns("first");
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select {COLUMNS}, first, first_bytes from task left join lateral \
             (select {first} from content c where c.org_id = task.org_id and c.hold_id = task.hold_id) texts on true \
             where org_id = $1 and hold_id = $2"
        )))
        .bind(org.as_uuid())
        .bind(hold.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let first = StoredText::of(row.try_get("first")?, row.try_get("first_bytes")?);
        Ok(Some((task(&row)?, first)))
    }
}
