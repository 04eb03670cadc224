//! What the ledger assumes of its database, in one list: `migrate` goes through it before it changes anything, a gateway
//! before it serves, and `tollgate doctor` at any time.
//!
//! A shortfall that would lose credits or stop half way is blocking; another one is told, and nothing is refused for it.
//! Each says what to do.

mod facts;
mod sessions;

use std::fmt::Write;

use sqlx::Connection;
use time::OffsetDateTime;

use self::facts::Facts;
use super::database::Database;
use super::error::StoreError;
use super::role;
use super::session::Deadline;

/// What the database is examined for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Bringing the schema up to date.
    Migrate,
    /// Serving, on a schema that is up to date.
    Serve,
}

/// Something about the database that is not as the ledger assumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// What is wrong, without a full stop.
    pub what: String,
    /// What to do about it, without a full stop.
    pub remedy: String,
    /// Whether a command is refused for it.
    pub blocking: bool,
}

impl Shortfall {
    fn blocking(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), blocking: true }
    }

    fn advice(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into(), blocking: false }
    }
}

/// How long an examination may take: it connects twice and asks a few short questions.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

impl Database {
    /// Everything about the database that is not as assumed. Changes nothing.
    pub async fn shortfalls(&self, purpose: Purpose) -> Result<Vec<Shortfall>, StoreError> {
        let examined = tokio::time::timeout(PATIENCE, Box::pin(self.examine(purpose))).await;
        examined.unwrap_or(Err(StoreError::Unreachable))
    }

    async fn examine(&self, purpose: Purpose) -> Result<Vec<Shortfall>, StoreError> {
        let mut first = self.connection_of_login("tollgate-check", Deadline::QUERY).await?;
        let mut second = self.connection_of_login("tollgate-check", Deadline::QUERY).await?;
        let mut found: Vec<Shortfall> =
            sessions::shortfall(&mut first, &mut second).await?.into_iter().collect();
        // Where sessions are mixed up, no answer about a session can be relied on.
        if found.is_empty() {
            let mut facts = Facts::read(&mut first).await?;
            if purpose == Purpose::Serve {
                role::assume(&mut second).await?;
                facts.serve_as(Facts::read(&mut second).await?);
            }
            found = facts.shortfalls(purpose);
        }
        drop(tokio::join!(first.close(), second.close()));
        Ok(found)
    }

    /// How many connections the server takes of this role, other programs' included.
    pub async fn most_connections(&self) -> Result<i32, StoreError> {
        let most = sqlx::query_scalar(
            "select least(current_setting('max_connections')::integer
                              - current_setting('superuser_reserved_connections')::integer,
                          nullif(db.datconnlimit, -1), nullif(own.rolconnlimit, -1))
             from pg_database db, pg_roles own
             where db.datname = current_database() and own.rolname = session_user",
        );
        Ok(most.fetch_one(self.pool()).await?)
    }

    /// The role that a gateway's connections are of.
    pub async fn role(&self) -> Result<String, StoreError> {
        Ok(sqlx::query_scalar("select current_user::text").fetch_one(self.pool()).await?)
    }

    /// What the database's clock says now.
    pub async fn time(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(sqlx::query_scalar("select clock_timestamp()").fetch_one(self.pool()).await?)
    }

    /// Fails with all blocking shortfalls; returns those that are only told.
    pub async fn check_assumptions(&self, purpose: Purpose) -> Result<Vec<Shortfall>, StoreError> {
        let (blocking, told): (Vec<_>, Vec<_>) =
            self.shortfalls(purpose).await?.into_iter().partition(|shortfall| shortfall.blocking);
        if blocking.is_empty() {
            return Ok(told);
        }
        let mut text =
            format!("the database {} cannot be used, and nothing in it was changed:", self.place());
        for Shortfall { what, remedy, .. } in blocking {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n  - {what}. {remedy}");
        }
        Err(StoreError::Schema(text.into()))
    }
}
