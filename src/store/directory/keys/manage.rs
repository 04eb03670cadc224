//! Creating, changing, rotating and revoking keys.

use std::time::Duration;

use ipnet::IpNet;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::api_key::NewKey;
use crate::ids::{KeyId, OrgId, UserId};
use crate::secret::Secret;
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::directory::keys::Rates;
use crate::store::directory::keys::info::{KeyInfo, info, key_columns};
use crate::store::directory::tenancy::Status;

/// The longest time that the former secret of a key may work after a rotation.
pub const MAX_OVERLAP: Duration = Duration::from_secs(30 * 86_400);

/// The most task types, and the most networks, that a key may name: every gateway keeps them in memory with the key.
pub const MOST_ALLOWED: usize = 100;

/// A key that is to be created.
#[derive(Debug, Clone, Default)]
pub struct KeySpec {
    /// The name of the key, for people.
    pub name: String,
    /// The environment label in the key's text.
    pub env: String,
    pub expires_at: Option<OffsetDateTime>,
    /// Task types that the key may create; `None`: all.
    pub allowed_types: Option<Vec<String>>,
    /// Networks that the key may be used from; `None`: all.
    pub allowed_networks: Option<Vec<IpNet>>,
    pub rates: Rates,
}

/// Changes of a key; a field that is `None` keeps its value.
#[derive(Debug, Clone, Default)]
pub struct KeyEdit {
    /// The name of the key, for people.
    pub name: Option<String>,
    /// Whether creates with the key are refused.
    pub status: Option<Status>,
    /// When the key expires; `Some(None)`: never.
    pub expires_at: Option<Option<OffsetDateTime>>,
    /// Task types that the key may create; `Some(None)`: all.
    pub allowed_types: Option<Option<Vec<String>>>,
    /// Networks that the key may be used from; `Some(None)`: all.
    pub allowed_networks: Option<Option<Vec<IpNet>>>,
    /// Creates a minute; `Some(None)`: the gateway's default.
    pub create_per_minute: Option<Option<u32>>,
    /// Other calls a minute; `Some(None)`: the gateway's default.
    pub status_per_minute: Option<Option<u32>>,
}

/// A key with its new secret.
#[derive(Debug)]
pub struct Rotated {
    /// The whole text of the key, which is shown only once.
    pub text: Secret,
    /// The key after the rotation, with the instant until which the former secret works.
    pub key: KeyInfo,
}

fn invalid<T>(why: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Invalid(why.into()))
}

fn no_such(key: KeyId) -> StoreError {
    StoreError::NotFound(format!("there is no key {key}"))
}

pub(super) fn check_name(name: &str) -> Result<(), StoreError> {
    let fits = (1..=200).contains(&name.chars().count()) && !name.trim().is_empty();
    if fits { Ok(()) } else { invalid("the name of a key must be 1 to 200 characters") }
}

pub(super) fn texts(networks: Option<&Vec<IpNet>>) -> Option<Vec<String>> {
    networks.map(|list| list.iter().map(ToString::to_string).collect())
}

pub(super) fn new_key(env: &str) -> Result<NewKey, StoreError> {
    NewKey::generate(env).ok_or_else(|| {
        StoreError::Invalid(format!(
            "'{env}' is not 1 to 12 lower-case letters or digits that operators do not have"
        ))
    })
}

fn stored(rate: Option<u32>) -> Option<i32> {
    rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX))
}

/// The facts of a key that a change depends on.
struct KeyFacts {
    version: i32,
    expired: bool,
    env: String,
}

impl Database {
    /// Refuses what would make a key useless: an expiry in the past, an empty list of networks or types, a network that
    /// matches nobody, a type that no price book has.
    pub(super) async fn check_bounds(
        &self,
        expires_at: Option<OffsetDateTime>,
        types: Option<&Vec<String>>,
        networks: Option<&Vec<IpNet>>,
    ) -> Result<(), StoreError> {
        if types.is_some_and(Vec::is_empty) || networks.is_some_and(Vec::is_empty) {
            return invalid(
                "allowed types and networks must not be empty lists: leave them out to allow all",
            );
        }
        let (types_given, networks_given) = (types.map_or(0, Vec::len), networks.map_or(0, Vec::len));
        if types_given.max(networks_given) > MOST_ALLOWED {
            return invalid(format!(
                "a key has at most {MOST_ALLOWED} allowed types and {MOST_ALLOWED} networks"
            ));
        }
        // Callers' addresses are compared in their IPv4 form.
        let unmatched = networks.into_iter().flatten().find(|network| match network {
            IpNet::V6(network) => network.prefix_len() >= 96 && network.addr().to_ipv4_mapped().is_some(),
            IpNet::V4(_) => false,
        });
        if let Some(network) = unmatched {
            return invalid(format!(
                "{network} matches no caller: write the IPv4 network itself, such as 10.0.0.0/8"
            ));
        }
        let (late, unknown): (Option<bool>, Option<String>) = sqlx::query_as(
            "select $1 <= now(), (select wanted from unnest($2::text[]) wanted \
             where not exists (select from price where task_type = wanted) limit 1)",
        )
        .bind(expires_at)
        .bind(types)
        .fetch_one(self.pool())
        .await?;
        if late == Some(true) {
            return invalid("the end of a key must not be in the past");
        }
        unknown.map_or(Ok(()), |unknown| invalid(format!("'{unknown}' is a task type of no price book")))
    }

    /// Fails if a key cannot be changed: it does not exist, is not of the version that its editor saw, is revoked, or
    /// its user or organisation was deleted.
    async fn changeable_key(&self, key: KeyId, version: Option<i32>) -> Result<KeyFacts, StoreError> {
        let row: Option<(i32, bool, bool, String)> = sqlx::query_as(
            "select k.version, coalesce(k.revoked_at, u.deleted_at, o.deleted_at) is not null, \
             coalesce(k.expires_at <= now(), false), k.env \
             from api_key k join app_user u using (user_id) join org o on o.org_id = k.org_id where k.key_id = $1",
        )
        .bind(key.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        let (current, revoked, expired, env) = row.ok_or_else(|| no_such(key))?;
        if version.is_some_and(|version| version != current) {
            return Err(StoreError::Stale { current });
        }
        if revoked {
            return Err(StoreError::Conflict(format!("{key} is revoked: make another one")));
        }
        Ok(KeyFacts { version: current, expired, env })
    }

    /// The result of a change. If the change found no row, the key was changed after the checks, and the error says
    /// how.
    async fn changed_key(
        &self,
        row: Option<PgRow>,
        key: KeyId,
        version: Option<i32>,
    ) -> Result<KeyInfo, StoreError> {
        let Some(row) = row else {
            let current = self.changeable_key(key, version).await?.version;
            return Err(StoreError::Stale { current });
        };
        info(&row)
    }
}

impl Acting {
    /// Creates a key for a user of `org`. The text of the key is in the answer and is stored nowhere.
    pub async fn create_key(
        &self,
        org: OrgId,
        user: UserId,
        spec: &KeySpec,
    ) -> Result<(KeyId, Secret), StoreError> {
        check_name(&spec.name)?;
        let new = new_key(&spec.env)?;
        let key = KeyId::generate();
        let (types, networks) = (spec.allowed_types.as_ref(), spec.allowed_networks.as_ref());
        self.check_bounds(spec.expires_at, types, networks).await?;
        let done = sqlx::query(
            "insert into api_key (key_id, public_id, org_id, user_id, name, secret_sha256, allowed_types, \
             allowed_networks, create_per_minute, status_per_minute, expires_at, env) \
             select $1, $2, u.org_id, u.user_id, $5, $6, $7, $8, $9, $10, $11, $12 from app_user u join org o using (org_id) \
             where u.org_id = $3 and u.user_id = $4 and u.deleted_at is null and o.deleted_at is null",
        )
        .bind(key.as_uuid())
        .bind(&new.public_id)
        .bind(org.as_uuid())
        .bind(user.as_uuid())
        .bind(&spec.name)
        .bind(new.secret.as_bytes())
        .bind(types)
        .bind(texts(networks))
        .bind(stored(spec.rates.create))
        .bind(stored(spec.rates.status))
        .bind(spec.expires_at)
        .bind(&spec.env)
        .execute(self.change())
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::NotFound(format!("{org} has no user {user}")));
        }
        Ok((key, new.text))
    }

    /// Changes a key, if its version is still `version` (`None`: any version).
    pub async fn edit_key(
        &self,
        key: KeyId,
        version: Option<i32>,
        edit: &KeyEdit,
    ) -> Result<KeyInfo, StoreError> {
        if let Some(name) = &edit.name {
            check_name(name)?;
        }
        self.changeable_key(key, version).await?;
        let types = edit.allowed_types.as_ref().and_then(Option::as_ref);
        let networks = edit.allowed_networks.as_ref().and_then(Option::as_ref);
        self.check_bounds(edit.expires_at.flatten(), types, networks).await?;
        let row = sqlx::query(concat!(
            "update api_key k set name = coalesce($2, k.name), \
             expires_at = case when $3 then $4 else k.expires_at end, \
             allowed_types = case when $5 then $6 else k.allowed_types end, \
             allowed_networks = case when $7 then $8 else k.allowed_networks end, \
             create_per_minute = case when $9 then $10 else k.create_per_minute end, \
             status_per_minute = case when $11 then $12 else k.status_per_minute end, \
             suspended = coalesce($13, k.suspended) from app_user u join org o using (org_id) \
             where k.key_id = $1 and u.user_id = k.user_id and k.version = coalesce($14, k.version) \
               and coalesce(k.revoked_at, u.deleted_at, o.deleted_at) is null returning ",
            key_columns!()
        ))
        .bind(key.as_uuid())
        .bind(edit.name.as_ref())
        .bind(edit.expires_at.is_some())
        .bind(edit.expires_at.flatten())
        .bind(edit.allowed_types.is_some())
        .bind(types)
        .bind(edit.allowed_networks.is_some())
        .bind(texts(networks))
        .bind(edit.create_per_minute.is_some())
        .bind(stored(edit.create_per_minute.flatten()))
        .bind(edit.status_per_minute.is_some())
        .bind(stored(edit.status_per_minute.flatten()))
        .bind(edit.status.map(|status| status == Status::Suspended))
        .bind(version)
        .fetch_optional(self.change())
        .await?;
        self.changed_key(row, key, version).await
    }

    /// Gives a key a new secret. The present secret works for `overlap` more; the secret from an earlier rotation ends
    /// now.
    pub async fn rotate_key(&self, key: KeyId, overlap: Duration) -> Result<Rotated, StoreError> {
        if overlap > MAX_OVERLAP {
            return invalid("the overlap must be at most 30 days");
        }
        let standing = self.changeable_key(key, None).await?;
        if standing.expired {
            return Err(StoreError::Conflict(format!("{key} has expired: set a later expires_at first")));
        }
        let new = NewKey::generate(&standing.env).ok_or(StoreError::Corrupt("api_key.env".into()))?;
        let row = sqlx::query(concat!(
            "update api_key k set public_id = $2, secret_sha256 = $3, rotated_at = now(), \
             previous_public_id = case when $4 > 0 then k.public_id end, \
             previous_sha256 = case when $4 > 0 then k.secret_sha256 end, \
             previous_until = case when $4 > 0 then now() + make_interval(secs => $4) end \
             from app_user u join org o using (org_id) \
             where k.key_id = $1 and u.user_id = k.user_id and coalesce(k.expires_at > now(), true) \
               and coalesce(k.revoked_at, u.deleted_at, o.deleted_at) is null returning ",
            key_columns!()
        ))
        .bind(key.as_uuid())
        .bind(&new.public_id)
        .bind(new.secret.as_bytes())
        .bind(overlap.as_secs_f64())
        .fetch_optional(self.change())
        .await?;
        let rotated = self.changed_key(row, key, None).await?;
        Ok(Rotated { text: new.text, key: rotated })
    }

    /// Revokes a key with all its secrets; this cannot be undone. False if the key was revoked before.
    pub async fn revoke_key(&self, key: KeyId) -> Result<bool, StoreError> {
        let done =
            sqlx::query("update api_key set revoked_at = now() where key_id = $1 and revoked_at is null")
                .bind(key.as_uuid())
                .execute(self.change())
                .await?;
        if done.rows_affected() == 0 {
            self.key(key).await?.ok_or_else(|| no_such(key))?;
        }
        Ok(done.rows_affected() > 0)
    }
}
