//! API keys: making, finding, revoking.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{Bounded, Database, LedgerError};
use crate::api_key::{NewKey, SecretHash};
use crate::credits::PriceFactor;
use crate::ids::{KeyId, OrgId, UserId};
use crate::secret::Secret;

/// What a caller may do within its organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Creates tasks, sees its own.
    Member,
    /// Sees and manages all of its organisation.
    Admin,
}

impl Role {
    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

/// Requests a minute; none: the gateway's default, 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// Creates.
    pub create: Option<u32>,
    /// Everything else.
    pub status: Option<u32>,
}

/// Who is calling, and what that allows.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The organisation.
    pub org: OrgId,
    /// The user.
    pub user: UserId,
    /// The key.
    pub key: KeyId,
    /// The user's role.
    pub role: Role,
    /// Whether organisation or user is suspended: no creates.
    pub suspended: bool,
    /// What the organisation pays of the list price.
    pub factor: PriceFactor,
    /// Limits of the key.
    pub key_rates: Rates,
    /// Limits of the organisation.
    pub org_rates: Rates,
    /// Types the key may create; none: all.
    pub allowed_types: Option<Vec<String>>,
    /// Networks the key may be used from; none: all.
    pub allowed_networks: Option<Vec<IpNet>>,
}

impl Principal {
    /// Whether the key may be used from `address`.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.allowed_networks
            .as_ref()
            .is_none_or(|networks| networks.iter().any(|network| network.contains(&address.to_canonical())))
    }

    /// Whether the key may create `task_type`.
    pub fn allows_type(&self, task_type: &str) -> bool {
        self.allowed_types.as_ref().is_none_or(|types| types.iter().any(|allowed| allowed == task_type))
    }
}

/// A key as it was found: to be proved by its secret.
#[derive(Debug, Clone)]
pub struct FoundKey {
    /// What proves it.
    pub secret: SecretHash,
    /// Whether it was revoked.
    pub revoked: bool,
    /// How much longer it was to live when it was found, by the database's clock: gateways' may differ.
    pub expires_in: Option<Duration>,
    /// Who it stands for.
    pub principal: Arc<Principal>,
}

/// A key to be made.
#[derive(Debug, Clone, Default)]
pub struct KeySpec {
    /// What people call it.
    pub name: String,
    /// The `<env>` part of its text.
    pub env: String,
    /// When it ends.
    pub expires_at: Option<OffsetDateTime>,
    /// Types it may create.
    pub allowed_types: Option<Vec<String>>,
    /// Networks it may be used from.
    pub allowed_networks: Option<Vec<IpNet>>,
    /// Its own limits.
    pub rates: Rates,
}

/// A key as operators see it: never its secret.
#[derive(Debug, Clone, Serialize)]
pub struct KeyInfo {
    /// Its id, stable over rotations.
    pub key_id: KeyId,
    /// The part of its text that finds it.
    pub public_id: String,
    /// The user it stands for.
    pub user_id: UserId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// Types it may create; none: all.
    pub allowed_types: Option<Vec<String>>,
    /// Networks it may be used from; none: all.
    pub allowed_networks: Option<Vec<String>>,
}

fn rate(row: &sqlx::postgres::PgRow, column: &str) -> Result<Option<u32>, sqlx::Error> {
    Ok(row.try_get::<Option<i32>, _>(column)?.and_then(|rate| u32::try_from(rate).ok()))
}

impl Database {
    /// Makes a key for a user of `org`. Its text is in the answer and nowhere else.
    pub async fn create_key(
        &self,
        org: OrgId,
        user: UserId,
        spec: &KeySpec,
    ) -> Result<(KeyId, Secret), LedgerError> {
        let new = NewKey::generate(&spec.env).ok_or_else(|| {
            LedgerError::Invalid(format!("'{}' is not 1 to 12 lower-case letters or digits", spec.env))
        })?;
        let key = KeyId::generate();
        let networks = spec
            .allowed_networks
            .as_ref()
            .map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        let rate = |rate: Option<u32>| rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX));
        let mut change = self.change().await?;
        let done = sqlx::query(
            "insert into api_key (key_id, public_id, org_id, user_id, name, secret_sha256, allowed_types, \
             allowed_networks, create_per_minute, status_per_minute, expires_at) \
             select $1, $2, org_id, user_id, $5, $6, $7, $8, $9, $10, $11 from app_user \
             where org_id = $3 and user_id = $4",
        )
        .bind(key.as_uuid())
        .bind(&new.public_id)
        .bind(org.as_uuid())
        .bind(user.as_uuid())
        .bind(&spec.name)
        .bind(new.secret.as_bytes())
        .bind(spec.allowed_types.as_ref())
        .bind(networks)
        .bind(rate(spec.rates.create))
        .bind(rate(spec.rates.status))
        .bind(spec.expires_at)
        .execute(&mut *change)
        .bounded()
        .await?;
        if done.rows_affected() == 0 {
            return Err(LedgerError::NotFound(format!("{org} has no user {user}")));
        }
        change.commit().await?;
        Ok((key, new.text))
    }

    /// The key with that public id.
    pub async fn find_key(&self, public_id: &str) -> Result<Option<FoundKey>, LedgerError> {
        let row = sqlx::query(
            "select k.key_id, k.org_id, k.user_id, k.secret_sha256, k.revoked_at is not null as revoked, \
             extract(epoch from k.expires_at - clock_timestamp())::float8 as expires_in, \
             k.allowed_types, k.allowed_networks, k.create_per_minute, k.status_per_minute, u.role, \
             o.status = 'suspended' or u.status = 'suspended' as suspended, o.price_factor_bp, \
             o.create_per_minute as org_create, o.status_per_minute as org_status \
             from api_key k join app_user u using (user_id) join org o on o.org_id = k.org_id where k.public_id = $1",
        )
        .bind(public_id)
        .fetch_optional(self.pool()).bounded()
        .await?;
        let Some(row) = row else { return Ok(None) };
        let secret = SecretHash::from_bytes(row.try_get("secret_sha256")?)
            .ok_or(LedgerError::Corrupt("secret_sha256"))?;
        let networks = row
            .try_get::<Option<Vec<String>>, _>("allowed_networks")?
            .map(|list| list.iter().map(|text| text.parse()).collect::<Result<Vec<IpNet>, _>>())
            .transpose()
            .map_err(|_| LedgerError::Corrupt("allowed_networks"))?;
        let principal = Principal {
            org: OrgId::from_uuid(row.try_get("org_id")?),
            user: UserId::from_uuid(row.try_get("user_id")?),
            key: KeyId::from_uuid(row.try_get("key_id")?),
            role: if row.try_get::<&str, _>("role")? == "admin" { Role::Admin } else { Role::Member },
            suspended: row.try_get("suspended")?,
            factor: PriceFactor::new(row.try_get("price_factor_bp")?)
                .ok_or(LedgerError::Corrupt("price_factor_bp"))?,
            key_rates: Rates {
                create: rate(&row, "create_per_minute")?,
                status: rate(&row, "status_per_minute")?,
            },
            org_rates: Rates { create: rate(&row, "org_create")?, status: rate(&row, "org_status")? },
            allowed_types: row.try_get("allowed_types")?,
            allowed_networks: networks,
        };
        let expires_in = row.try_get::<Option<f64>, _>("expires_in")?;
        Ok(Some(FoundKey {
            secret,
            revoked: row.try_get("revoked")?,
            // What does not fit is over (negative), or will not be over in our time.
            expires_in: expires_in
                .map(|seconds| Duration::try_from_secs_f64(seconds.clamp(0.0, 1e10)).unwrap_or_default()),
            principal: Arc::new(principal),
        }))
    }

    /// The keys of `org`, oldest first.
    pub async fn keys(&self, org: OrgId) -> Result<Vec<KeyInfo>, LedgerError> {
        let rows = sqlx::query(
            "select key_id, public_id, user_id, name, created_at, expires_at, revoked_at, allowed_types, \
             allowed_networks from api_key \
             where org_id = $1 order by key_id",
        )
        .bind(org.as_uuid())
        .fetch_all(self.pool())
        .bounded()
        .await?;
        rows.iter()
            .map(|row| {
                Ok(KeyInfo {
                    key_id: KeyId::from_uuid(row.try_get("key_id")?),
                    public_id: row.try_get("public_id")?,
                    user_id: UserId::from_uuid(row.try_get("user_id")?),
                    name: row.try_get("name")?,
                    created_at: row.try_get("created_at")?,
                    expires_at: row.try_get("expires_at")?,
                    revoked_at: row.try_get("revoked_at")?,
                    allowed_types: row.try_get("allowed_types")?,
                    allowed_networks: row.try_get("allowed_networks")?,
                })
            })
            .collect()
    }

    /// Revokes a key for good. Says whether it was this call that did it.
    pub async fn revoke_key(&self, key: KeyId) -> Result<bool, LedgerError> {
        let mut change = self.change().await?;
        let row: Option<(bool,)> = sqlx::query_as(
            "with before as (select revoked_at from api_key where key_id = $1 for update), \
             done as (update api_key set revoked_at = coalesce(revoked_at, now()) where key_id = $1) \
             select revoked_at is null from before",
        )
        .bind(key.as_uuid())
        .fetch_optional(&mut *change)
        .bounded()
        .await?;
        let Some((first,)) = row else {
            return Err(LedgerError::NotFound(format!("there is no key {key}")));
        };
        change.commit().await?;
        Ok(first)
    }
}
