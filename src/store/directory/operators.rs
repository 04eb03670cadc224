//! Tokens of operators, who run the platform.

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::api_key::{NewKey, OPERATOR_ENV, PresentedKey, SecretHash};
use crate::ids::OperatorTokenId;
use crate::secret::Secret;
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;
use crate::store::db::words::words;

words! {
    /// What an operator may do.
    pub enum OperatorRole in "operator_token.role" {
        Operator = "operator",
        OperatorRead = "operator_read",
    }
}

words! {
    enum BootstrapOutcome in "begin_bootstrap()" {
        Begun = "begun",
        Known = "known",
        InProgress = "in_progress",
    }
}

words! {
    enum RevokeOutcome in "revoke_operator_token()" {
        Revoked = "revoked",
        Unknown = "unknown",
        Last = "last",
    }
}

/// An operator's token, without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OperatorToken {
    pub token_id: OperatorTokenId,
    /// The name of the token, for people.
    pub name: String,
    /// What the token's bearer may do.
    pub role: OperatorRole,
    /// When the token was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When the token was revoked.
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
    /// The operator that presents this token, if the token is valid.
    pub async fn find_operator(&self, presented: &PresentedKey) -> Result<Option<OperatorToken>, StoreError> {
        if presented.env != OPERATOR_ENV {
            return Ok(None);
        }
        let row = sqlx::query(
            "select token_id, name, role, created_at, expires_at, revoked_at, secret_sha256 from operator_token \
             where public_id = $1 and revoked_at is null and unconfirmed_since is null \
               and (expires_at is null or expires_at > now())",
        )
        .bind(&presented.public_id)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let secret = SecretHash::from_bytes(row.try_get("secret_sha256")?)
            .ok_or(StoreError::Corrupt("operator_token.secret_sha256".into()))?;
        Ok(if secret.matches(&presented.secret) { Some(FromRow::from_row(&row)?) } else { None })
    }

    /// The token with this public id, if it is valid. The caller has proved before that it has the secret.
    pub async fn find_operator_token(&self, public_id: &str) -> Result<Option<OperatorToken>, StoreError> {
        Ok(sqlx::query_as(
            "select token_id, name, role, created_at, expires_at, revoked_at from operator_token \
             where public_id = $1 and revoked_at is null and unconfirmed_since is null \
               and (expires_at is null or expires_at > now())",
        )
        .bind(public_id)
        .fetch_optional(self.pool())
        .await?)
    }

    /// The operator tokens, revoked ones included, oldest first.
    pub async fn list_operator_tokens(
        &self,
        slice: Slice<OperatorTokenId>,
    ) -> Result<Vec<OperatorToken>, StoreError> {
        Ok(sqlx::query_as(
            "select token_id, name, role, created_at, expires_at, revoked_at from operator_token \
             where unconfirmed_since is null and ($1::uuid is null or token_id > $1) order by token_id limit $2",
        )
        .bind(slice.after.map(OperatorTokenId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?)
    }
}

/// How long a gateway may take to show the first operator's token, before another gateway may create it anew.
const BOOTSTRAP_PATIENCE_SECONDS: f64 = 10.0;

impl Acting {
    /// Creates an operator token. Its text is in the answer and is stored nowhere.
    pub async fn create_operator_token(
        &self,
        name: &str,
        role: OperatorRole,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<(OperatorTokenId, Secret), StoreError> {
        let new = NewKey::generate_operator();
        let token = OperatorTokenId::generate();
        sqlx::query(
            "insert into operator_token (token_id, public_id, name, role, secret_sha256, expires_at) \
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(token.as_uuid())
        .bind(&new.public_id)
        .bind(name)
        .bind(role)
        .bind(new.secret.as_bytes())
        .bind(expires_at)
        .execute(self.change())
        .await?;
        Ok((token, new.text))
    }

    /// Creates the first operator token, if there was never one, and returns whether it did. The text is `given`, or a
    /// new one, which counts only after `show` has shown it. Safe when several gateways start at once: only one of them
    /// shows a token.
    pub async fn bootstrap_operator<E: From<StoreError>>(
        &self,
        given: Option<&PresentedKey>,
        show: impl FnOnce(&Secret) -> Result<(), E> + Send,
    ) -> Result<bool, E> {
        let new = NewKey::generate_operator();
        let (public_id, secret) = match given {
            Some(given) => (&given.public_id, &given.secret),
            None => (&new.public_id, &new.secret),
        };
        let token = OperatorTokenId::generate();
        if !self.begin_bootstrap(token, public_id, secret).await? {
            return Ok(false);
        }
        if given.is_none()
            && let Err(error) = show(&new.text)
        {
            // The next start can then show another token at once.
            self.end_bootstrap(token, "delete from operator_token where token_id = $1").await?;
            return Err(error);
        }
        let confirm = "update operator_token set unconfirmed_since = null where token_id = $1";
        Ok(self.end_bootstrap(token, confirm).await?)
    }

    async fn begin_bootstrap(
        &self,
        token: OperatorTokenId,
        public_id: &str,
        secret: &SecretHash,
    ) -> Result<bool, StoreError> {
        let outcome: BootstrapOutcome =
            sqlx::query_scalar("select begin_bootstrap($1, $2, $3, $4 * interval '1 second')")
                .bind(token.as_uuid())
                .bind(public_id)
                .bind(secret.as_bytes())
                .bind(BOOTSTRAP_PATIENCE_SECONDS)
                .fetch_one(self.change())
                .await?;
        match outcome {
            BootstrapOutcome::Begun => Ok(true),
            BootstrapOutcome::Known | BootstrapOutcome::InProgress => Ok(false),
        }
    }

    async fn end_bootstrap(&self, token: OperatorTokenId, how: &'static str) -> Result<bool, StoreError> {
        let done = sqlx::query(how).bind(token.as_uuid()).execute(self.change()).await?;
        Ok(done.rows_affected() > 0)
    }

    /// Revokes an operator token; this cannot be undone. The last token that may change things and never expires is not
    /// revoked, because nobody could create another one.
    pub async fn revoke_operator_token(&self, token: OperatorTokenId) -> Result<(), StoreError> {
        let outcome: RevokeOutcome = sqlx::query_scalar("select revoke_operator_token($1)")
            .bind(token.as_uuid())
            .fetch_one(self.change())
            .await?;
        match outcome {
            RevokeOutcome::Revoked => Ok(()),
            RevokeOutcome::Unknown => {
                Err(StoreError::NotFound(format!("there is no operator token {token}")))
            }
            RevokeOutcome::Last => Err(StoreError::Conflict(
                "this is the last operator token that never expires: create another one first".into(),
            )),
        }
    }
}
