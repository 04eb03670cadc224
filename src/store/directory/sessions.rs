//! Sessions of the console: each stands for a credential, which is looked up again at every use.

mod invitations;
mod logins;

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;

words! {
    /// What kind of credential a session stands for.
    pub enum SessionKind in "console_session.kind", "console_link.kind" {
        Key = "key",
        Operator = "operator",
        /// A subject of an identity provider.
        Identity = "identity",
        /// The user itself, by an invitation.
        User = "user",
    }
}

/// The credential that a session stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOf {
    pub kind: SessionKind,
    /// The public id of the API key or of the operator's token; else the id of the identity or of the user, as the database
    /// prints it.
    pub public_id: String,
}

/// The SHA-256 of a session's text, or of a link's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionHash(pub [u8; 32]);

/// A session, for the bearer of its credential.
#[derive(Debug, Clone, Copy)]
pub struct SessionInfo {
    pub hash: SessionHash,
    pub created_at: OffsetDateTime,
    /// When it was last used, to the minute.
    pub seen_at: OffsetDateTime,
}

/// How many sessions one credential may have at a time: a further one ends the oldest.
const MOST_SESSIONS: i64 = 20;

/// How many rows one run deletes of each table.
const BATCH: i64 = 1_000;

impl Database {
    /// Stores a new session, and ends the oldest ones of its credential if there are too many.
    pub async fn add_session(&self, hash: SessionHash, of: &SessionOf) -> Result<(), StoreError> {
        sqlx::query(
            "with ended as (delete from console_session where session_sha256 in ( \
                 select s.session_sha256 from console_session s where s.kind = $2 and s.public_id = $3 \
                 order by s.created_at desc offset $4)) \
             insert into console_session (session_sha256, kind, public_id) values ($1, $2, $3)",
        )
        .bind(hash.0.as_slice())
        .bind(of.kind)
        .bind(&of.public_id)
        .bind(MOST_SESSIONS - 1)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// The credential of this session, if the session has not ended: it ends 8 hours after its last use, and 24 hours after its
    /// beginning. Its use is noted once a minute.
    pub async fn find_session(&self, hash: SessionHash) -> Result<Option<SessionOf>, StoreError> {
        let row = sqlx::query(
            "select kind, public_id, seen_at < now() - interval '1 minute' as unseen from console_session \
             where session_sha256 = $1 and seen_at > now() - interval '8 hours' \
               and created_at > now() - interval '24 hours'",
        )
        .bind(hash.0.as_slice())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        if row.try_get("unseen")? {
            sqlx::query(
                "update console_session set seen_at = now() where session_sha256 = $1 \
                   and seen_at < now() - interval '1 minute'",
            )
            .bind(hash.0.as_slice())
            .execute(self.pool())
            .await?;
        }
        Ok(Some(SessionOf { kind: row.try_get("kind")?, public_id: row.try_get("public_id")? }))
    }

    /// Ends a session; false: there is none.
    pub async fn end_session(&self, hash: SessionHash) -> Result<bool, StoreError> {
        let ended = sqlx::query("delete from console_session where session_sha256 = $1")
            .bind(hash.0.as_slice())
            .execute(self.pool())
            .await?;
        Ok(ended.rows_affected() > 0)
    }

    /// The sessions of this credential that have not ended, newest first.
    pub async fn sessions_of(&self, of: &SessionOf) -> Result<Vec<SessionInfo>, StoreError> {
        let rows = sqlx::query(
            "select session_sha256, created_at, seen_at from console_session where kind = $1 and public_id = $2 \
               and seen_at > now() - interval '8 hours' and created_at > now() - interval '24 hours' \
             order by created_at desc limit $3",
        )
        .bind(of.kind)
        .bind(&of.public_id)
        .bind(MOST_SESSIONS)
        .fetch_all(self.pool())
        .await?;
        let info = |row: &PgRow| {
            let hash: &[u8] = row.try_get("session_sha256")?;
            let hash = hash.try_into().map_err(|_| StoreError::Corrupt("console_session".into()))?;
            let (created_at, seen_at) = (row.try_get("created_at")?, row.try_get("seen_at")?);
            Ok(SessionInfo { hash: SessionHash(hash), created_at, seen_at })
        };
        rows.iter().map(info).collect()
    }

    /// Ends all sessions of this credential but one.
    pub async fn end_other_sessions(&self, of: &SessionOf, but: SessionHash) -> Result<(), StoreError> {
        sqlx::query(
            "delete from console_session where kind = $1 and public_id = $2 and session_sha256 <> $3",
        )
        .bind(of.kind)
        .bind(&of.public_id)
        .bind(but.0.as_slice())
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Stores a link that opens one session within `lasts`.
    pub async fn add_link(
        &self,
        hash: SessionHash,
        of: &SessionOf,
        lasts: Duration,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "insert into console_link (link_sha256, kind, public_id, expires_at) \
             values ($1, $2, $3, now() + make_interval(secs => $4))",
        )
        .bind(hash.0.as_slice())
        .bind(of.kind)
        .bind(&of.public_id)
        .bind(lasts.as_secs_f64())
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Uses up a link: of several that try it at once, one gets its credential.
    pub async fn use_link(&self, hash: SessionHash) -> Result<Option<SessionOf>, StoreError> {
        let row = sqlx::query(
            "delete from console_link where link_sha256 = $1 and expires_at > now() returning kind, public_id",
        )
        .bind(hash.0.as_slice())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(SessionOf { kind: row.try_get("kind")?, public_id: row.try_get("public_id")? }))
    }

    /// Deletes sessions, links and sign-ins that have ended.
    pub async fn forget_sessions(&self) -> Result<(), StoreError> {
        for old in [
            "delete from console_session where session_sha256 in (select s.session_sha256 from console_session s \
             where s.created_at < now() - interval '24 hours' limit $1)",
            "delete from console_link where link_sha256 in (select l.link_sha256 from console_link l \
             where l.expires_at < now() limit $1)",
            "delete from console_login where login_sha256 in (select l.login_sha256 from console_login l \
             where l.created_at < now() - interval '10 minutes' limit $1)",
        ] {
            sqlx::query(old).bind(BATCH).execute(self.pool()).await?;
        }
        Ok(())
    }
}
