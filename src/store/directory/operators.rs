//! Tokens of those who run the platform.

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::api_key::{NewKey, OPERATOR_ENV, PresentedKey, SecretHash};
use crate::ids::OperatorTokenId;
use crate::secret::Secret;
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;
use crate::store::db::words::words;
use crate::store::directory::tenancy::Slice;

words! {
    /// What an operator may do.
    pub enum OperatorRole in "operator_token.role" {
        /// Everything.
        Operator = "operator",
        /// Look at everything.
        OperatorRead = "operator_read",
    }
}

/// An operator's token: never its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OperatorToken {
    /// Its id.
    pub token_id: OperatorTokenId,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: OperatorRole,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}

impl FromRow<'_, PgRow> for OperatorToken {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            token_id: OperatorTokenId::from_uuid(row.try_get("token_id")?),
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    }
}

impl Database {
    /// Makes an operator's token. Its text is in the answer and nowhere else.
    pub async fn create_operator_token(
        &self,
        name: &str,
        role: OperatorRole,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<(OperatorTokenId, Secret), LedgerError> {
        let new = NewKey::generate_operator();
        let token = OperatorTokenId::generate();
        let mut change = self.change().await?;
        insert(token, name, role, expires_at, &new.public_id, &new.secret)
            .execute(&mut *change)
            .bounded()
            .await?;
        change.commit().await?;
        Ok((token, new.text))
    }

    /// Makes the first operator's token, if there has never been one: the given text, or a fresh one, which `show`
    /// must have shown before it counts. Says whether it did. Safe when several gateways start at once.
    pub async fn bootstrap_operator<E: From<LedgerError>>(
        &self,
        given: Option<&PresentedKey>,
        show: impl FnOnce(&Secret) -> Result<(), E> + Send,
    ) -> Result<bool, E> {
        let mut change = self.change().await?;
        let lock = sqlx::query("lock table operator_token in exclusive mode");
        lock.execute(&mut *change).bounded().await.map_err(LedgerError::from)?;
        let known: bool = sqlx::query_scalar("select exists (select from operator_token)")
            .fetch_one(&mut *change)
            .bounded()
            .await
            .map_err(LedgerError::from)?;
        if known {
            return Ok(false);
        }
        let new = NewKey::generate_operator();
        let (public_id, secret) = match given {
            Some(given) => (&given.public_id, &given.secret),
            None => (&new.public_id, &new.secret),
        };
        insert(OperatorTokenId::generate(), "bootstrap", OperatorRole::Operator, None, public_id, secret)
            .execute(&mut *change)
            .bounded()
            .await
            .map_err(LedgerError::from)?;
        if given.is_none() {
            show(&new.text)?;
        }
        change.commit().await?;
        Ok(true)
    }

    /// Who that is, if it is an operator with a token that is still valid.
    pub async fn find_operator(
        &self,
        presented: &PresentedKey,
    ) -> Result<Option<OperatorToken>, LedgerError> {
        if presented.env != OPERATOR_ENV {
            return Ok(None);
        }
        let row = sqlx::query(
            "select token_id, name, role, created_at, expires_at, revoked_at, secret_sha256 from operator_token \
             where public_id = $1 and revoked_at is null and (expires_at is null or expires_at > now())",
        )
        .bind(&presented.public_id)
        .fetch_optional(self.pool())
        .bounded()
        .await?;
        let Some(row) = row else { return Ok(None) };
        let secret = SecretHash::from_bytes(row.try_get("secret_sha256")?)
            .ok_or(LedgerError::Corrupt("operator_token.secret_sha256".into()))?;
        Ok(if secret.matches(&presented.secret) { Some(FromRow::from_row(&row)?) } else { None })
    }

    /// Operators' tokens, oldest first.
    pub async fn list_operator_tokens(
        &self,
        slice: Slice<OperatorTokenId>,
    ) -> Result<Vec<OperatorToken>, LedgerError> {
        Ok(sqlx::query_as(
            "select token_id, name, role, created_at, expires_at, revoked_at from operator_token \
             where $1::uuid is null or token_id > $1 order by token_id limit $2",
        )
        .bind(slice.after.map(OperatorTokenId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .bounded()
        .await?)
    }

    /// Revokes an operator's token for good. The last one that can change anything stays: nobody could make another.
    pub async fn revoke_operator_token(&self, token: OperatorTokenId) -> Result<(), LedgerError> {
        let mut change = self.change().await?;
        sqlx::query("lock table operator_token in exclusive mode").execute(&mut *change).bounded().await?;
        let left: bool = sqlx::query_scalar(
            "select exists (select from operator_token where token_id <> $1 and role = 'operator' \
             and revoked_at is null and expires_at is null)",
        )
        .bind(token.as_uuid())
        .fetch_one(&mut *change)
        .bounded()
        .await?;
        let role: Option<OperatorRole> = sqlx::query_scalar(
            "update operator_token set revoked_at = coalesce(revoked_at, now()) where token_id = $1 returning role",
        )
        .bind(token.as_uuid())
        .fetch_optional(&mut *change)
        .bounded()
        .await?;
        match role {
            None => Err(LedgerError::NotFound(format!("there is no operator token {token}"))),
            Some(OperatorRole::Operator) if !left => Err(LedgerError::Conflict(
                "this is the last operator token without an end: make another one first".into(),
            )),
            Some(OperatorRole::Operator | OperatorRole::OperatorRead) => change.commit().await,
        }
    }
}

fn insert<'q>(
    token: OperatorTokenId,
    name: &'q str,
    role: OperatorRole,
    expires_at: Option<OffsetDateTime>,
    public_id: &'q str,
    secret: &'q SecretHash,
) -> sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments> {
    sqlx::query(
        "insert into operator_token (token_id, public_id, name, role, secret_sha256, expires_at) \
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(token.as_uuid())
    .bind(public_id)
    .bind(name)
    .bind(role)
    .bind(secret.as_bytes())
    .bind(expires_at)
}
