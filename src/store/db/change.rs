//! Changes that people make: a transaction that knows on whose behalf it runs, so that the audit log (written by triggers,
//! migration 6) can tell.

use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::ids::{HoldId, OrgId};
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;

/// Counting what was spent in a window looks at each of its tasks: longer than other statements may take.
const COUNTING: Duration = Duration::from_secs(60);

/// On whose behalf something is changed.
#[derive(Debug, Clone, Serialize)]
pub struct Actor {
    /// Who: a kind and an id, such as `key:key_…`; never a credential.
    #[serde(rename = "actor")]
    pub name: String,
    /// From where; none: not over the network.
    pub address: Option<IpAddr>,
    /// The operation; none: the log says what happened to the row.
    pub action: Option<String>,
    /// The request's id.
    pub request_id: Option<String>,
}

impl Actor {
    /// A part of this program that acts by itself.
    pub fn program(part: &str) -> Self {
        Self { name: format!("tollgate:{part}"), address: None, action: None, request_id: None }
    }
}

/// A handle that may change things, on behalf of one actor.
#[derive(Debug, Clone)]
pub struct Acting(pub(in crate::store) Database);

impl Deref for Acting {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.0
    }
}

/// An open change. Dropped without a commit it has not happened.
pub(in crate::store) struct Change(Transaction<'static, Postgres>);

impl Change {
    /// Writes into the audit log what an operator said about a task: holds change too often for a trigger.
    pub(in crate::store) async fn note(
        &mut self,
        org: OrgId,
        hold: HoldId,
        kind: &str,
        why: &str,
    ) -> Result<(), LedgerError> {
        sqlx::query(
            "insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, after) \
             select w ->> 'actor', w ->> 'address', coalesce(w ->> 'action', 'hold.' || $3), w ->> 'request_id', \
               'hold', $2::text, $1, jsonb_build_object('step', $3, 'reason', $4) \
             from (select current_setting('tollgate.audit')::jsonb as w) s",
        )
        .bind(org.as_uuid())
        .bind(hold.as_uuid())
        .bind(kind)
        .bind(why)
        .execute(&mut *self.0)
        .bounded()
        .await?;
        Ok(())
    }

    /// What follows may count what was spent in windows, under locks that reservations wait for. The database gives it up
    /// a little before its caller does, so that the locks end with the caller.
    pub(in crate::store) async fn may_count(&mut self) -> Result<(), LedgerError> {
        sqlx::query("select set_config('statement_timeout', '55s', true)")
            .execute(&mut *self.0)
            .bounded()
            .await?;
        Ok(())
    }

    /// Makes it so. An error leaves open whether it has happened.
    pub(in crate::store) async fn commit(self) -> Result<(), LedgerError> {
        Ok(self.0.commit().bounded().await?)
    }
}

/// The answer of a statement that counts what was spent.
pub(in crate::store) async fn counted<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(COUNTING, statement).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

impl Deref for Change {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for Change {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl Database {
    /// Begins a change: short, and never across anything but statements. A lock that another change holds is waited
    /// for, but not for long.
    pub(in crate::store) async fn change(&self) -> Result<Change, LedgerError> {
        let program = || Arc::new(Actor::program("gateway"));
        let actor = self.actor.clone().unwrap_or_else(program);
        let mut change = Change(self.pool().begin().await?);
        sqlx::query("select set_config('tollgate.audit', $1, true), set_config('lock_timeout', '3s', true)")
            .bind(serde_json::to_string(&*actor).unwrap_or_default())
            .execute(&mut *change)
            .bounded()
            .await?;
        Ok(change)
    }
}
