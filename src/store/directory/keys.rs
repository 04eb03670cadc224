//! API keys: whom they identify, and when they were used. `manage` creates, changes and revokes them.

mod info;
mod manage;
mod policy;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::api_key::SecretHash;
use crate::credits::PriceFactor;
use crate::ids::{KeyId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;
pub use crate::store::directory::keys::info::{KeyFilter, KeyInfo, KeyStatus};
pub use crate::store::directory::keys::manage::{KeyEdit, KeySpec, MAX_OVERLAP, Rotated};
pub use crate::store::directory::keys::policy::{KeyBudget, KeyPolicy, KeyPolicyChange, KeyVerdict};

words! {
    /// What a caller may do within its organisation.
    pub enum Role in "app_user.role" {
        /// Creates tasks and sees its own.
        Member = "member",
        /// Sees and manages everything of its organisation.
        Admin = "admin",
    }
}

/// Requests a minute; `None`: the gateway's default; 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    pub create: Option<u32>,
    pub status: Option<u32>,
}

/// Who is calling, and what the caller may do.
#[derive(Debug, Clone)]
pub struct Principal {
    pub org: OrgId,
    pub user: UserId,
    /// The key; `None`: the caller signed in with a token of an identity provider.
    pub key: Option<KeyId>,
    pub role: Role,
    /// Whether the organisation, team, user or key is suspended: creates are then refused.
    pub suspended: bool,
    /// The factor by which the organisation pays the list price.
    pub factor: PriceFactor,
    /// Rate limits of the key.
    pub key_rates: Rates,
    /// Rate limits of the organisation.
    pub org_rates: Rates,
    /// Task types that the key may create; `None`: all.
    pub allowed_types: Option<Vec<String>>,
    /// Networks that the key may be used from; `None`: all.
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

    /// Reads what every way of signing in needs of organisation, team and user: the columns of [`STANDING`].
    pub(in crate::store) fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            org: OrgId::from_uuid(row.try_get("org_id")?),
            user: UserId::from_uuid(row.try_get("user_id")?),
            key: None,
            role: row.try_get("role")?,
            suspended: row.try_get("suspended")?,
            factor: PriceFactor::new(row.try_get("price_factor_bp")?)
                .ok_or(StoreError::Corrupt("org.price_factor_bp".into()))?,
            key_rates: Rates::default(),
            org_rates: Rates { create: rate(row, "org_create")?, status: rate(row, "org_status")? },
            allowed_types: None,
            allowed_networks: None,
        })
    }
}

/// The columns of user `u`, organisation `o` and team `t` (left joined) that decide what a caller may do.
macro_rules! standing {
    () => {
        "o.org_id, u.user_id, u.role, o.price_factor_bp, \
         o.status = 'suspended' or u.status = 'suspended' or coalesce(t.status = 'suspended', false) as suspended, \
         u.deleted_at is not null or o.deleted_at is not null as gone, \
         o.create_per_minute as org_create, o.status_per_minute as org_status"
    };
}
pub(in crate::store) use standing;

/// A key that was found by its public id. The caller must still prove that it has the secret.
#[derive(Debug, Clone)]
pub struct FoundKey {
    pub key: KeyId,
    pub secret: SecretHash,
    /// Whether the key was revoked, or its user or organisation deleted.
    pub revoked: bool,
    /// The time from the look-up until the key expires, by the database's clock, because gateways' clocks may differ.
    pub expires_in: Option<Duration>,
    /// The user that the key identifies.
    pub principal: Arc<Principal>,
}

/// A negative rate is an error: read as no rate it would mean no limit.
fn rate(row: &PgRow, column: &'static str) -> Result<Option<u32>, StoreError> {
    let rate: Option<i32> = row.try_get(column)?;
    rate.map(u32::try_from).transpose().map_err(|_| StoreError::Corrupt(column.into()))
}

fn networks(row: &PgRow) -> Result<Option<Vec<IpNet>>, StoreError> {
    let texts: Option<Vec<String>> = row.try_get("allowed_networks")?;
    let parsed = texts.map(|list| list.iter().map(|text| text.parse()).collect::<Result<_, _>>());
    parsed.transpose().map_err(|_| StoreError::Corrupt("api_key.allowed_networks".into()))
}

impl Database {
    /// The key with this public id: that of the present secret, or that of the secret before the last rotation while it
    /// still works.
    pub async fn find_key(&self, public_id: &str) -> Result<Option<FoundKey>, StoreError> {
        let row = sqlx::query(concat!(
            "select k.key_id, k.revoked_at is not null as revoked, ",
            standing!(),
            ", case when k.public_id = $1 then k.secret_sha256 else k.previous_sha256 end as secret, \
             extract(epoch from case when k.public_id = $1 then k.expires_at else least(k.expires_at, k.previous_until) end \
                     - clock_timestamp())::float8 as expires_in, \
             k.suspended as key_suspended, k.allowed_types, k.allowed_networks, k.create_per_minute, k.status_per_minute \
             from api_key k join app_user u using (user_id) join org o on o.org_id = k.org_id \
             left join team t on t.team_id = u.team_id where k.public_id = $1 or k.previous_public_id = $1"
        ))
        .bind(public_id)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let key = KeyId::from_uuid(row.try_get("key_id")?);
        let standing = Principal::of(&row)?;
        let principal = Principal {
            key: Some(key),
            suspended: standing.suspended || row.try_get("key_suspended")?,
            key_rates: Rates {
                create: rate(&row, "create_per_minute")?,
                status: rate(&row, "status_per_minute")?,
            },
            allowed_types: row.try_get("allowed_types")?,
            allowed_networks: networks(&row)?,
            ..standing
        };
        let expires_in = row.try_get::<Option<f64>, _>("expires_in")?;
        Ok(Some(FoundKey {
            key,
            secret: SecretHash::from_bytes(row.try_get("secret")?)
                .ok_or(StoreError::Corrupt("api_key.secret_sha256".into()))?,
            revoked: row.try_get::<bool, _>("revoked")? || row.try_get::<bool, _>("gone")?,
            // A number that is out of range has expired (negative), or will not expire in our lifetime.
            expires_in: expires_in
                .map(|seconds| Duration::try_from_secs_f64(seconds.clamp(0.0, 1e10)).unwrap_or_default()),
            principal: Arc::new(principal),
        }))
    }

    /// Stores for each of these keys how long ago it was used.
    pub async fn note_key_uses(&self, uses: &[(KeyId, Duration)]) -> Result<(), StoreError> {
        // Ordered by key, because gateways store uses of the same keys at the same time. A difference of some seconds
        // is not worth a write.
        sqlx::query(
            "insert into api_key_use (key_id, used_at) \
             select key_id, max(now() - make_interval(secs => ago)) from unnest($1::uuid[], $2::float8[]) as noted(key_id, ago) \
             join api_key using (key_id) group by key_id order by key_id \
             on conflict (key_id) do update set used_at = excluded.used_at \
             where api_key_use.used_at < excluded.used_at - interval '30 seconds'",
        )
        .bind(uses.iter().map(|(key, _)| key.as_uuid()).collect::<Vec<_>>())
        .bind(uses.iter().map(|(_, ago)| ago.as_secs_f64()).collect::<Vec<_>>())
        .execute(self.pool())
        .await?;
        Ok(())
    }
}
