//! Identity providers: who else, beside a key of ours, may say who is calling. `sign_in` ties their subjects to
//! users.

mod sign_in;
mod spec;
mod ties;

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{Row, types::Json};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::ids::{OrgId, ProviderId};
use crate::store::db::change::Change;
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;
pub use crate::store::directory::identity::sign_in::{FoundIdentity, Presented};
pub use crate::store::directory::identity::spec::{GivenRole, ProviderSpec, Serves, SigningAlgorithm};
pub use crate::store::directory::identity::ties::IdentityInfo;
use crate::store::directory::tenancy::Status;

/// An identity provider.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Provider {
    /// Its id.
    pub provider_id: ProviderId,
    /// What it is.
    #[serde(flatten)]
    pub spec: ProviderSpec,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Counts its changes.
    pub version: i32,
}

/// What a [`Provider`] is read from.
macro_rules! columns {
    () => {
        "provider_id, name, serves, org_id, issuer, audiences, jwks_url, algorithms, leeway_seconds, user_claim, org_claim, \
         team_claim, role_claim, role_map, create_users, status, created_at, version"
    };
}

fn provider(row: &PgRow) -> Result<Provider, LedgerError> {
    let url: &str = row.try_get("jwks_url")?;
    let serves: Serves = row.try_get("serves")?;
    let Json(role_map): Json<BTreeMap<String, GivenRole>> = row.try_get("role_map")?;
    if !role_map.values().all(|role| role.is_of(serves)) {
        return Err(LedgerError::Corrupt("identity_provider.role_map".into()));
    }
    Ok(Provider {
        provider_id: ProviderId::from_uuid(row.try_get("provider_id")?),
        spec: ProviderSpec {
            name: row.try_get("name")?,
            serves,
            org_id: row.try_get::<Option<_>, _>("org_id")?.map(OrgId::from_uuid),
            issuer: row.try_get("issuer")?,
            audiences: row.try_get("audiences")?,
            jwks_url: url.parse().map_err(|_| LedgerError::Corrupt("identity_provider.jwks_url".into()))?,
            algorithms: row.try_get("algorithms")?,
            leeway_seconds: u32::try_from(row.try_get::<i32, _>("leeway_seconds")?)
                .map_err(|_| LedgerError::Corrupt("identity_provider.leeway_seconds".into()))?,
            user_claim: row.try_get("user_claim")?,
            org_claim: row.try_get("org_claim")?,
            team_claim: row.try_get("team_claim")?,
            role_claim: row.try_get("role_claim")?,
            role_map,
            create_users: row.try_get("create_users")?,
            suspended: row.try_get::<Status, _>("status")? == Status::Suspended,
        },
        created_at: row.try_get("created_at")?,
        version: row.try_get("version")?,
    })
}

impl Database {
    /// Makes an identity provider.
    pub async fn create_provider(&self, spec: &ProviderSpec) -> Result<ProviderId, LedgerError> {
        let id = ProviderId::generate();
        let mut change = self.change().await?;
        check(&mut change, id, spec).await?;
        sqlx::query(
            "insert into identity_provider (provider_id, name, serves, org_id, issuer, audiences, jwks_url, algorithms, \
             leeway_seconds, user_claim, org_claim, team_claim, role_claim, role_map, create_users, status) \
             values ($1, $2, $15, $16, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind_spec(id, spec)
        .bind(spec.serves)
        .bind(spec.org_id.map(OrgId::as_uuid))
        .execute(&mut *change)
        .bounded()
        .await?;
        change.commit().await?;
        Ok(id)
    }

    /// All identity providers that were not deleted, oldest first.
    pub async fn providers(&self) -> Result<Vec<Provider>, LedgerError> {
        let rows = sqlx::query(concat!(
            "select ",
            columns!(),
            " from identity_provider where deleted_at is null order by provider_id"
        ));
        rows.fetch_all(self.pool()).bounded().await?.iter().map(provider).collect()
    }

    /// One identity provider that was not deleted.
    pub async fn provider(&self, id: ProviderId) -> Result<Option<Provider>, LedgerError> {
        let row = sqlx::query(concat!(
            "select ",
            columns!(),
            " from identity_provider where provider_id = $1 and deleted_at is null"
        ))
        .bind(id.as_uuid());
        row.fetch_optional(self.pool()).bounded().await?.as_ref().map(provider).transpose()
    }

    /// Changes a provider, if it still is of the `version` that its editor saw (none: whatever it is). Whom it serves
    /// stays as it is.
    pub async fn edit_provider(
        &self,
        id: ProviderId,
        version: Option<i32>,
        edit: impl FnOnce(&mut ProviderSpec) + Send,
    ) -> Result<Provider, LedgerError> {
        let mut change = self.change().await?;
        let current = lock(&mut change, id, version).await?;
        let mut spec = current.spec.clone();
        edit(&mut spec);
        (spec.serves, spec.org_id) = (current.spec.serves, current.spec.org_id);
        check(&mut change, id, &spec).await?;
        let row = sqlx::query(concat!(
            "update identity_provider set name = $2, issuer = $3, audiences = $4, jwks_url = $5, algorithms = $6, \
             leeway_seconds = $7, user_claim = $8, org_claim = $9, team_claim = $10, role_claim = $11, role_map = $12, \
             create_users = $13, status = $14 where provider_id = $1 returning ",
            columns!()
        ))
        .bind_spec(id, &spec)
        .fetch_one(&mut *change)
        .bounded()
        .await?;
        let edited = provider(&row)?;
        change.commit().await?;
        Ok(edited)
    }

    /// Deletes a provider: its tokens are refused from now on. The users that came by it stay.
    pub async fn delete_provider(&self, id: ProviderId, version: Option<i32>) -> Result<(), LedgerError> {
        let mut change = self.change().await?;
        lock(&mut change, id, version).await?;
        sqlx::query("update identity_provider set deleted_at = now() where provider_id = $1")
            .bind(id.as_uuid())
            .execute(&mut *change)
            .bounded()
            .await?;
        change.commit().await
    }
}

/// A name, and a pair of issuer and audience, belong to one provider: a token must not find two.
async fn check(change: &mut Change, id: ProviderId, spec: &ProviderSpec) -> Result<(), LedgerError> {
    spec.check()?;
    // One at a time: two that are made at once must see each other.
    let (named, spoken, org): (bool, bool, bool) = sqlx::query_as(
        "with alone as materialized (select pg_advisory_xact_lock(7116012)) \
         select exists (select from identity_provider p where p.name = $2 and p.deleted_at is null and p.provider_id <> $1), \
         exists (select from identity_provider p where p.issuer = $3 and p.audiences && $4 and p.deleted_at is null \
                 and p.provider_id <> $1), \
         $5 is null or exists (select from org o where o.org_id = $5 and o.deleted_at is null) from alone",
    )
    .bind(id.as_uuid())
    .bind(&spec.name)
    .bind(&spec.issuer)
    .bind(&spec.audiences)
    .bind(spec.org_id.map(OrgId::as_uuid))
    .fetch_one(&mut **change)
    .bounded()
    .await?;
    if !org {
        return Err(LedgerError::NotFound("there is no such organisation".into()));
    }
    if named {
        return Err(LedgerError::Conflict(format!(
            "an identity provider named '{}' exists already",
            spec.name
        )));
    }
    if spoken {
        return Err(LedgerError::Conflict(
            "another identity provider has this issuer and one of these audiences".into(),
        ));
    }
    Ok(())
}

async fn lock(change: &mut Change, id: ProviderId, version: Option<i32>) -> Result<Provider, LedgerError> {
    let row = sqlx::query(concat!(
        "select ",
        columns!(),
        " from identity_provider where provider_id = $1 and deleted_at is null for update"
    ))
    .bind(id.as_uuid())
    .fetch_optional(&mut **change)
    .bounded()
    .await?;
    let none = || LedgerError::NotFound(format!("there is no identity provider {id}"));
    let current = provider(&row.ok_or_else(none)?)?;
    match version {
        Some(version) if version != current.version => Err(LedgerError::Stale { current: current.version }),
        _ => Ok(current),
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

trait BindSpec<'q> {
    fn bind_spec(self, id: ProviderId, spec: &'q ProviderSpec) -> Self;
}

impl<'q> BindSpec<'q> for Query<'q> {
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
    }
}
