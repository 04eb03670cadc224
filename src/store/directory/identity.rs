//! Identity providers: besides our own keys, their tokens say who is calling. `sign_in` links their subjects to users.

mod links;
mod sign_in;
mod spec;

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Row, types::Json};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::encryption::{BadSecret, StoredSecrets};
use crate::ids::{OrgId, ProviderId};
use crate::secret::Secret;
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;
pub use crate::store::directory::identity::links::IdentityInfo;
pub use crate::store::directory::identity::sign_in::{FoundIdentity, Presented};
pub use crate::store::directory::identity::spec::{
    GivenRole, LISTS_OF_WORDS, ProviderSpec, Serves, SigningAlgorithm,
};
use crate::store::directory::tenancy::Status;

/// How often an edit is tried while others change the same provider. An attempt fails only if another change succeeded.
const EDITS: u32 = 5;

/// An identity provider: an issuer of tokens that are accepted in place of a key.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Provider {
    pub provider_id: ProviderId,
    #[serde(flatten)]
    pub spec: ProviderSpec,
    /// When the provider was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    pub version: i32,
}

/// The columns that a [`Provider`] is read from.
macro_rules! provider_columns {
    () => {
        "provider_id, name, serves, org_id, issuer, audiences, jwks_url, algorithms, leeway_seconds, user_claim, org_claim, \
         team_claim, role_claim, role_map, create_users, status, console_client_id, console_client_secret, console_scopes, \
         created_at, version"
    };
}

fn provider(row: &PgRow) -> Result<Provider, StoreError> {
    let url: &str = row.try_get("jwks_url")?;
    let serves: Serves = row.try_get("serves")?;
    let Json(role_map): Json<BTreeMap<String, GivenRole>> = row.try_get("role_map")?;
    if !role_map.values().all(|role| role.is_of(serves)) {
        return Err(StoreError::Corrupt("identity_provider.role_map".into()));
    }
    Ok(Provider {
        provider_id: ProviderId::from_uuid(row.try_get("provider_id")?),
        spec: ProviderSpec {
            name: row.try_get("name")?,
            serves,
            org_id: row.try_get::<Option<_>, _>("org_id")?.map(OrgId::from_uuid),
            issuer: row.try_get("issuer")?,
            audiences: row.try_get("audiences")?,
            jwks_url: url.parse().map_err(|_| StoreError::Corrupt("identity_provider.jwks_url".into()))?,
            algorithms: row.try_get("algorithms")?,
            leeway_seconds: u32::try_from(row.try_get::<i32, _>("leeway_seconds")?)
                .map_err(|_| StoreError::Corrupt("identity_provider.leeway_seconds".into()))?,
            user_claim: row.try_get("user_claim")?,
            org_claim: row.try_get("org_claim")?,
            team_claim: row.try_get("team_claim")?,
            role_claim: row.try_get("role_claim")?,
            role_map,
            create_users: row.try_get("create_users")?,
            suspended: row.try_get::<Status, _>("status")? == Status::Suspended,
            console_client_id: row.try_get("console_client_id")?,
            console_client_secret: row
                .try_get::<Option<String>, _>("console_client_secret")?
                .map(Secret::new),
            console_scopes: row.try_get("console_scopes")?,
        },
        created_at: row.try_get("created_at")?,
        version: row.try_get("version")?,
    })
}

impl Database {
    /// All identity providers that are not deleted, oldest first.
    pub async fn providers(&self) -> Result<Vec<Provider>, StoreError> {
        let rows = sqlx::query(concat!(
            "select ",
            provider_columns!(),
            " from identity_provider where deleted_at is null order by provider_id"
        ));
        rows.fetch_all(self.pool()).await?.iter().map(provider).collect()
    }

    /// The identity provider with this id, unless it is deleted.
    pub async fn provider(&self, id: ProviderId) -> Result<Option<Provider>, StoreError> {
        let row = sqlx::query(concat!(
            "select ",
            provider_columns!(),
            " from identity_provider where provider_id = $1 and deleted_at is null"
        ))
        .bind(id.as_uuid());
        row.fetch_optional(self.pool()).await?.as_ref().map(provider).transpose()
    }
}

type Prepared<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

trait BindSpec<'q> {
    fn bind_spec(self, id: ProviderId, spec: &'q ProviderSpec) -> Self;
}

impl<'q> BindSpec<'q> for Prepared<'q> {
    fn bind_spec(self, id: ProviderId, spec: &'q ProviderSpec) -> Self {
        self.bind(id.as_uuid())
            .bind(&spec.name)
            .bind(&spec.issuer)
            .bind(&spec.audiences)
            .bind(spec.jwks_url.as_str())
            .bind(&spec.algorithms)
            .bind(i32::try_from(spec.leeway_seconds).unwrap_or(i32::MAX))
            .bind(&spec.user_claim)
            .bind(&spec.org_claim)
            .bind(&spec.team_claim)
            .bind(&spec.role_claim)
            .bind(Json(&spec.role_map))
            .bind(spec.create_users)
            .bind(if spec.suspended { Status::Suspended } else { Status::Active })
            .bind(&spec.console_client_id)
            .bind(spec.console_client_secret.as_ref().map(Secret::expose))
            .bind(&spec.console_scopes)
    }
}

fn none(id: ProviderId) -> StoreError {
    StoreError::NotFound(format!("there is no identity provider {id}"))
}

words! {
    enum Shared in "provider_conflict()" {
        UnknownOrg = "unknown_org",
        Name = "name",
        Audience = "audience",
    }
}

fn conflict(found: Option<Shared>, spec: &ProviderSpec) -> Result<(), StoreError> {
    match found {
        None => Ok(()),
        Some(Shared::UnknownOrg) => Err(StoreError::NotFound("there is no such organisation".into())),
        Some(Shared::Name) => {
            Err(StoreError::Conflict(format!("an identity provider named '{}' exists already", spec.name)))
        }
        Some(Shared::Audience) => Err(StoreError::Conflict(
            "another identity provider has this issuer and one of these audiences".into(),
        )),
    }
}

impl Acting {
    /// Creates an identity provider and returns its id.
    pub async fn create_provider(&self, spec: &ProviderSpec) -> Result<ProviderId, StoreError> {
        spec.check()?;
        let id = ProviderId::generate();
        let row = sqlx::query(
            "with checked as materialized (select provider_conflict($1, $2, $3, $4, $19) as conflict), \
             made as (insert into identity_provider (provider_id, name, serves, org_id, issuer, audiences, jwks_url, \
               algorithms, leeway_seconds, user_claim, org_claim, team_claim, role_claim, role_map, create_users, status, \
               console_client_id, console_client_secret, console_scopes) \
               select $1, $2, $18, $19, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17 from checked \
               where conflict is null) \
             select conflict from checked",
        )
        .bind_spec(id, spec)
        .bind(spec.serves)
        .bind(spec.org_id.map(OrgId::as_uuid))
        .fetch_one(self.change())
        .await?;
        conflict(row.try_get("conflict")?, spec)?;
        Ok(id)
    }

    /// Changes a provider, if its version is still `version` (`None`: any version; then `edit` is called again, a few
    /// times at most, if another change came first). Whom the provider serves cannot be changed.
    pub async fn edit_provider(
        &self,
        id: ProviderId,
        version: Option<i32>,
        edit: impl Fn(&mut ProviderSpec) + Send,
    ) -> Result<Provider, StoreError> {
        for _ in 0..EDITS {
            let current = self.provider(id).await?.ok_or_else(|| none(id))?;
            if version.is_some_and(|version| version != current.version) {
                return Err(StoreError::Stale { current: current.version });
            }
            let mut spec = current.spec.clone();
            edit(&mut spec);
            (spec.serves, spec.org_id) = (current.spec.serves, current.spec.org_id);
            // What was wrong before, by a rule that came later, must not keep anybody from suspending the provider.
            if spec.problem() != current.spec.problem() {
                spec.check()?;
            }
            if let Some(edited) = self.replace_spec(&current, &spec).await? {
                return Ok(edited);
            }
        }
        let current = self.provider(id).await?.ok_or_else(|| none(id))?.version;
        Err(StoreError::Stale { current })
    }

    /// Replaces the provider's description; `None` if its version has changed meanwhile.
    async fn replace_spec(
        &self,
        current: &Provider,
        spec: &ProviderSpec,
    ) -> Result<Option<Provider>, StoreError> {
        let row = sqlx::query(concat!(
            "with checked as materialized (select provider_conflict($1, $2, $3, $4, $18) as conflict), \
             edited as (update identity_provider p set name = $2, issuer = $3, audiences = $4, jwks_url = $5, \
               algorithms = $6, leeway_seconds = $7, user_claim = $8, org_claim = $9, team_claim = $10, role_claim = $11, \
               role_map = $12, create_users = $13, status = $14, console_client_id = $15, console_client_secret = $16, \
               console_scopes = $17 from checked \
               where p.provider_id = $1 and p.deleted_at is null and p.version = $19 and checked.conflict is null returning ",
            provider_columns!(),
            ") select conflict, ",
            provider_columns!(),
            " from checked left join edited on true"
        ))
        .bind_spec(current.provider_id, spec)
        .bind(spec.org_id.map(OrgId::as_uuid))
        .bind(current.version)
        .fetch_one(self.change())
        .await?;
        conflict(row.try_get("conflict")?, spec)?;
        let edited: Option<uuid::Uuid> = row.try_get("provider_id")?;
        edited.map(|_| provider(&row)).transpose()
    }

    /// Encrypts the client secrets of providers that are not, or under the former secret of the gateways. Returns those that cannot be
    /// read.
    pub async fn encrypt_client_secrets(
        &self,
        secrets: &StoredSecrets,
    ) -> Result<Vec<(ProviderId, BadSecret)>, StoreError> {
        let mut unreadable = Vec::new();
        for Provider { provider_id, spec, .. } in self.providers().await? {
            let Some(stored) = spec.console_client_secret.filter(|stored| secrets.is_outdated(stored)) else {
                continue;
            };
            let secret = secrets.decrypt(&stored, &spec.issuer);
            match secret.and_then(|secret| secrets.encrypt(&secret, &spec.issuer)) {
                Ok(encrypted) => self.replace_client_secret(provider_id, &stored, &encrypted).await?,
                Err(why) => unreadable.push((provider_id, why)),
            }
        }
        Ok(unreadable)
    }

    /// Replaces a stored text by another one for the same secret, unless it was changed meanwhile.
    async fn replace_client_secret(
        &self,
        id: ProviderId,
        old: &Secret,
        new: &Secret,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "update identity_provider set console_client_secret = $3 \
             where provider_id = $1 and console_client_secret = $2 and deleted_at is null",
        )
        .bind(id.as_uuid())
        .bind(old.expose())
        .bind(new.expose())
        .execute(self.change())
        .await?;
        Ok(())
    }

    /// Deletes a provider: its tokens are refused from now on. The users that it created stay.
    pub async fn delete_provider(&self, id: ProviderId, version: Option<i32>) -> Result<(), StoreError> {
        let done = sqlx::query(
            "update identity_provider set deleted_at = now(), console_client_secret = null \
             where provider_id = $1 and deleted_at is null and version = coalesce($2, version)",
        )
        .bind(id.as_uuid())
        .bind(version)
        .execute(self.change())
        .await?;
        if done.rows_affected() == 0 {
            let current = self.provider(id).await?.ok_or_else(|| none(id))?.version;
            return Err(StoreError::Stale { current });
        }
        Ok(())
    }
}
