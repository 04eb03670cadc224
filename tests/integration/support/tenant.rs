//! An organisation with everything a budget can be of.

use sqlx::PgPool;
use time::OffsetDateTime;
use tollgate::ids::{BudgetId, KeyId, OrgId, TeamId, UserId};
use tollgate::store::BudgetLevel::{self, Key, Organisation, Team, User};
use tollgate::store::{KeySpec, NewBudget, NewHold, NewUser, OrgChange, Period, Role, StoreError};

use super::database::TestDatabase;
use super::fixture::{credits, funded, new_hold};

/// An organisation with a team, and in it a user with a key.
pub struct Tenant {
    pub org: OrgId,
    pub team: TeamId,
    pub user: UserId,
    pub key: KeyId,
}

impl Tenant {
    pub async fn new(db: &TestDatabase, credits: i64) -> Self {
        let org = funded(db, credits).await;
        // Where it is not about midnight: no window may end while a test is under way.
        if [23, 0].contains(&OffsetDateTime::now_utc().hour()) {
            let zone = OrgChange { time_zone: Some("Etc/GMT-12".into()), ..OrgChange::default() };
            db.database().update_org(org, zone, None).await.unwrap();
        }
        let team = db.database().create_team(org, "film").await.unwrap();
        let new = NewUser { name: "ada".into(), role: Role::Member, team: Some(team) };
        let user = db.database().add_user(org, &new).await.unwrap();
        let key = key_of(db, org, user).await;
        Self { org, team, user, key }
    }

    pub fn hold(&self, amount: i64) -> NewHold {
        NewHold { user: self.user, key: Some(self.key), ..new_hold(self.org, amount) }
    }

    /// Of its own key, user, team or organisation.
    pub async fn budget(
        &self,
        db: &TestDatabase,
        level: BudgetLevel,
        period: Period,
        amount: i64,
    ) -> BudgetId {
        let subject = match level {
            Key => Some(self.key.to_string()),
            User => Some(self.user.to_string()),
            Team => Some(self.team.to_string()),
            Organisation => None,
        };
        make(db, Some(self.org), level, subject, period, Some(amount)).await.unwrap()
    }

    /// `(used, held, limit)` of what counts for its key.
    pub async fn drawn(&self, db: &TestDatabase) -> Vec<(i64, i64, Option<i64>)> {
        let budgets = db.database().budgets_of_caller(self.org, self.user, Some(self.key)).await.unwrap();
        budgets.iter().map(|b| (b.used.get(), b.held.get(), b.limit.map(|limit| limit.get()))).collect()
    }
}

pub async fn key_of(db: &TestDatabase, org: OrgId, user: UserId) -> KeyId {
    let spec = KeySpec { name: "a key".into(), env: "test".into(), ..KeySpec::default() };
    db.database().create_key(org, user, &spec).await.unwrap().0
}

pub async fn make(
    db: &TestDatabase,
    org: Option<OrgId>,
    level: BudgetLevel,
    subject: Option<String>,
    period: Period,
    amount: Option<i64>,
) -> Result<BudgetId, StoreError> {
    let new = NewBudget { org, level, subject, period, credits: amount.map(credits), thresholds: None };
    db.database().make_budget(&new).await
}

/// So many tasks of the tenant's key that have ended, each charged 90 credits; the credits for them were granted.
pub async fn history(db: &TestDatabase, tenant: &Tenant, tasks: i32) {
    history_as(db.pool(), tenant, &[tenant.key], tasks, "'t'").await;
}

/// The same, of so many types of tasks: t0, t1 and so on.
pub async fn history_of_types(db: &TestDatabase, tenant: &Tenant, tasks: i32, types: i32) {
    history_as(db.pool(), tenant, &[tenant.key], tasks, &format!("'t' || i % {types}")).await;
}

/// The same, of these keys of its user in turn.
pub async fn history_of_keys(pool: &PgPool, tenant: &Tenant, keys: &[KeyId], tasks: i32) {
    history_as(pool, tenant, keys, tasks, "'t'").await;
}

async fn history_as(pool: &PgPool, tenant: &Tenant, keys: &[KeyId], tasks: i32, task_type: &str) {
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "with ended as ( \
           insert into hold (org_id, hold_id, user_id, key_id, team_id, state, amount, list_price, factor_bp, price_book, \
             balance_after, overdraft, task_type, backend, account, owner, fingerprint, created_at, recorded_at, \
             ended_at, charged, raw_consumed, reported, drift) \
           select $1, uuid_v7(t), $2, ($3::uuid[])[1 + i % cardinality($3::uuid[])], $4, 'SETTLED', 100, 100, 10000, 1, 0, 0, {task_type}, 'b', 'a', $1, '', t, t, t, \
             90, 90, 90, 0 from generate_series(1, $5) i, lateral (select now() - i * interval '1 ms') at(t) returning *), \
         charged as ( \
           insert into entry (org_id, entry_id, kind, amount, hold_id, user_id, key_id, team_id, task_type, created_at) \
           select org_id, hold_id, 'consume', -90, hold_id, user_id, key_id, team_id, task_type, ended_at from ended), \
         granted as ( \
           insert into entry (org_id, entry_id, kind, amount, reason, created_at) \
           values ($1, uuid_v7(now()), 'grant', 90 * $5, 'for its history', now())) \
         update org_balance set granted = granted + 90 * $5, consumed = consumed + 90 * $5 where org_id = $1",
    )))
    .bind(tenant.org.as_uuid())
    .bind(tenant.user.as_uuid())
    .bind(keys.iter().map(|key| key.as_uuid()).collect::<Vec<_>>())
    .bind(tenant.team.as_uuid())
    .bind(tasks)
    .execute(pool)
    .await
    .unwrap();
}

/// Has the server vacuum and analyse no partition of holds and entries.
pub async fn without_autovacuum(db: &TestDatabase) {
    sqlx::query(
        "do $$ declare part regclass; begin for part in select oid::regclass from pg_class \
         where relkind = 'r' and pg_partition_root(oid) in ('hold'::regclass, 'entry'::regclass) loop \
         execute format('alter table %s set (autovacuum_enabled = false)', part); end loop; end $$",
    )
    .execute(db.pool())
    .await
    .unwrap();
}
