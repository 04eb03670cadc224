//! Keys as the API shows them, without their secrets.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::ids::{KeyId, OrgId, UserId};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;
use crate::store::db::words::words;
use crate::store::directory::keys::rate;

words! {
    /// Whether a key can be used.
    pub enum KeyStatus in "the status of a key" {
        Active = "active",
        /// Creates with the key are refused.
        Suspended = "suspended",
        /// The key has passed its `expires_at`.
        Expired = "expired",
        /// Somebody revoked the key, or deleted its user or organisation.
        Revoked = "revoked",
    }
}

/// Which keys of an organisation to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyFilter {
    /// Only keys of this user.
    pub user: Option<UserId>,
    /// Only keys with this status.
    pub status: Option<KeyStatus>,
}

/// A key without its secret.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct KeyInfo {
    /// The id of the key; rotations do not change it.
    pub key_id: KeyId,
    /// The part of the key's text that identifies the key and is not secret.
    pub public_id: String,
    /// The organisation that the key belongs to.
    pub org_id: OrgId,
    /// The user that the key identifies.
    pub user_id: UserId,
    /// The name of the key, for people.
    pub name: String,
    pub status: KeyStatus,
    /// When the key was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// When the key was revoked, or its user or organisation deleted.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// When the key last got a new secret.
    #[serde(with = "time::serde::rfc3339::option")]
    pub rotated_at: Option<OffsetDateTime>,
    /// Until when the former secret works; null: it does not work.
    #[serde(with = "time::serde::rfc3339::option")]
    pub previous_until: Option<OffsetDateTime>,
    /// When the key was last used, to within a minute.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// Task types that the key may create; null: all.
    pub allowed_types: Option<Vec<String>>,
    /// Networks that the key may be used from; null: all.
    pub allowed_networks: Option<Vec<String>>,
    /// Creates a minute; null: the gateway's default; 0: no limit.
    pub create_per_minute: Option<u32>,
    /// Other calls a minute; null: the gateway's default; 0: no limit.
    pub status_per_minute: Option<u32>,
    pub version: i32,
}

/// The status of key `k` of user `u` and organisation `o`. The key of a deleted user or organisation never works again.
macro_rules! key_status {
    () => {
        "case when coalesce(k.revoked_at, u.deleted_at, o.deleted_at) is not null then 'revoked' \
         when k.expires_at <= now() then 'expired' when k.suspended then 'suspended' else 'active' end"
    };
}

/// The columns that a [`KeyInfo`] is read from: of key `k`, its user `u` and their organisation `o`.
macro_rules! key_columns {
    () => {
        concat!(
            "k.key_id, k.public_id, k.org_id, k.user_id, k.name, k.created_at, k.expires_at, k.rotated_at, \
             k.allowed_types, k.allowed_networks, k.create_per_minute, k.status_per_minute, k.version, \
             (select w.used_at from api_key_use w where w.key_id = k.key_id) as used_at, \
             coalesce(k.revoked_at, least(u.deleted_at, o.deleted_at)) as revoked_at, \
             case when coalesce(k.revoked_at, u.deleted_at, o.deleted_at) is null and k.previous_until > now() \
             then k.previous_until end as previous_until, ",
            crate::store::directory::keys::info::key_status!(),
            " as status"
        )
    };
}

macro_rules! select_key {
    ($($rest:expr),+) => {
        concat!(
            "select ",
            key_columns!(),
            " from api_key k join app_user u using (user_id) join org o on o.org_id = k.org_id ",
            $($rest),+
        )
    };
}

pub(super) use {key_columns, key_status};

pub(super) fn info(row: &PgRow) -> Result<KeyInfo, StoreError> {
    Ok(KeyInfo {
        key_id: KeyId::from_uuid(row.try_get("key_id")?),
        public_id: row.try_get("public_id")?,
        org_id: OrgId::from_uuid(row.try_get("org_id")?),
        user_id: UserId::from_uuid(row.try_get("user_id")?),
        name: row.try_get("name")?,
        status: row.try_get("status")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        rotated_at: row.try_get("rotated_at")?,
        previous_until: row.try_get("previous_until")?,
        last_used_at: row.try_get("used_at")?,
        allowed_types: row.try_get("allowed_types")?,
        allowed_networks: row.try_get("allowed_networks")?,
        create_per_minute: rate(row, "create_per_minute")?,
        status_per_minute: rate(row, "status_per_minute")?,
        version: row.try_get("version")?,
    })
}

impl Database {
    /// The keys of `org`, oldest first.
    pub async fn keys(&self, org: OrgId) -> Result<Vec<KeyInfo>, StoreError> {
        self.list_keys(org, KeyFilter::default(), Slice { after: None, limit: u16::MAX }).await
    }

    /// The keys of `org` that match `filter`, oldest first.
    pub async fn list_keys(
        &self,
        org: OrgId,
        filter: KeyFilter,
        slice: Slice<KeyId>,
    ) -> Result<Vec<KeyInfo>, StoreError> {
        let rows = sqlx::query(select_key!(
            "where k.org_id = $1 and ($2::uuid is null or k.user_id = $2) and ($3::uuid is null or k.key_id > $3) \
             and ($4::text is null or $4 = ",
            key_status!(),
            ") order by k.key_id limit $5"
        ))
        .bind(org.as_uuid())
        .bind(filter.user.map(UserId::as_uuid))
        .bind(slice.after.map(KeyId::as_uuid))
        .bind(filter.status)
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(info).collect()
    }

    pub async fn key(&self, key: KeyId) -> Result<Option<KeyInfo>, StoreError> {
        let row = sqlx::query(select_key!("where k.key_id = $1")).bind(key.as_uuid());
        row.fetch_optional(self.pool()).await?.as_ref().map(info).transpose()
    }
}
