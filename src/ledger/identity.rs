//! Identity providers: who else, beside a key of ours, may say who is calling. [`sign_in`](self) ties their subjects to
//! users.

mod sign_in;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{Row, types::Json};
use time::OffsetDateTime;
use url::Url;
use utoipa::ToSchema;

pub use self::sign_in::{FoundIdentity, IdentityInfo, Presented};
use super::change::Change;
use super::{Bounded, Database, LedgerError};
use crate::ids::{OrgId, ProviderId};
use crate::jwks::is_safe;

/// How a provider may sign. No HMAC: whoever verifies could sign as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum SigningAlgorithm {
    /// RSA, PKCS#1 v1.5, SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA on P-256, SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Rs256, Self::Es256, Self::EdDsa];

    /// Its name in tokens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text)
    }
}

/// Whom a provider may speak for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Serves {
    /// Callers of organisations.
    Organisations,
    /// Those who run the platform.
    Operators,
}

impl Serves {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Organisations => "organisations",
            Self::Operators => "operators",
        }
    }
}

/// What an identity provider is to be.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ProviderSpec {
    /// What people call it, unique.
    pub name: String,
    /// Whom it may speak for.
    pub serves: Serves,
    /// The one organisation it may speak for; none: the organisation claim says which.
    pub org_id: Option<OrgId>,
    /// The `iss` of its tokens.
    pub issuer: String,
    /// Tokens must be for one of these.
    pub audiences: Vec<String>,
    /// Where it publishes its keys: https, or http on this machine.
    #[schema(value_type = String)]
    pub jwks_url: Url,
    /// How it may sign.
    pub algorithms: Vec<SigningAlgorithm>,
    /// By how much its clock may differ.
    pub leeway_seconds: u32,
    /// The claim that says which user: stable, and never given to another.
    pub user_claim: String,
    /// The claim that says which organisation, by id or name.
    pub org_claim: Option<String>,
    /// The claim that says which team, by name.
    pub team_claim: Option<String>,
    /// The claim that says which role: a text or a list of texts.
    pub role_claim: Option<String>,
    /// What its values mean: `member` or `admin`; for operators `operator` or `operator_read`.
    pub role_map: BTreeMap<String, String>,
    /// Whether a subject that was never seen becomes a user.
    pub create_users: bool,
    /// Whether its tokens are refused for now.
    pub suspended: bool,
}

impl ProviderSpec {
    /// One for the callers of `org`, or of whatever organisation the claim `organisation` names; everything else as is usual.
    pub fn new(name: &str, org_id: Option<OrgId>, issuer: &str, audience: &str, jwks_url: Url) -> Self {
        Self {
            name: name.into(),
            serves: Serves::Organisations,
            org_id,
            issuer: issuer.into(),
            audiences: vec![audience.into()],
            jwks_url,
            algorithms: SigningAlgorithm::ALL.into(),
            leeway_seconds: 60,
            user_claim: "sub".into(),
            org_claim: org_id.is_none().then(|| "organisation".into()),
            team_claim: None,
            role_claim: None,
            role_map: BTreeMap::new(),
            create_users: false,
            suspended: false,
        }
    }

    /// The name of the role that these values of the role claim give; the mightier one if several do.
    pub fn role_of<'a>(&'a self, values: &[&str]) -> Option<&'a str> {
        let given = || values.iter().filter_map(|value| self.role_map.get(*value)).map(String::as_str);
        let mighty = |role: &&str| ["admin", "operator"].contains(role);
        given().find(mighty).or_else(|| given().next())
    }

    fn check(&self) -> Result<(), LedgerError> {
        let claims = [
            Some(&self.user_claim),
            self.org_claim.as_ref(),
            self.team_claim.as_ref(),
            self.role_claim.as_ref(),
        ];
        let roles: &[&str] = match self.serves {
            Serves::Organisations => &["member", "admin"],
            Serves::Operators => &["operator", "operator_read"],
        };
        let texts = [Some(&self.name), Some(&self.issuer)].into_iter().chain(claims).flatten();
        let bad_text = |text: &String| text.trim().is_empty() || text.chars().count() > 500;
        let problem = if texts.chain(&self.audiences).any(bad_text) || self.audiences.is_empty() {
            "name, issuer, audiences and claims must not be empty, nor longer than 500 characters"
        } else if self.algorithms.is_empty() {
            "at least one algorithm is needed"
        } else if !is_safe(&self.jwks_url) {
            "jwks_url must be an https URL, or an http one on this machine, without user and password"
        } else if self.leeway_seconds > 300 {
            "leeway_seconds must be at most 300"
        } else if self.role_map.values().any(|role| !roles.contains(&role.as_str())) {
            "role_map must map to member or admin, for operators to operator or operator_read"
        } else if !self.role_map.is_empty() && self.role_claim.is_none() {
            "role_map needs a role_claim"
        } else if self.serves == Serves::Organisations && self.org_id.is_none() && self.org_claim.is_none() {
            "either org_id or org_claim must say for which organisation it speaks"
        } else if self.serves == Serves::Operators
            && (self.org_id.is_some()
                || self.org_claim.is_some()
                || self.team_claim.is_some()
                || self.create_users)
        {
            "operators belong to no organisation: no org_id, org_claim, team_claim, create_users"
        } else if self.serves == Serves::Operators && self.role_map.is_empty() {
            "a provider of operators needs a role_claim and a role_map"
        } else {
            return Ok(());
        };
        Err(LedgerError::Invalid(problem.into()))
    }
}

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

fn provider(row: &PgRow) -> Result<Provider, LedgerError> {
    let algorithms: Vec<String> = row.try_get("algorithms")?;
    let algorithms = algorithms.iter().map(|text| SigningAlgorithm::parse(text)).collect::<Option<_>>();
    let url: &str = row.try_get("jwks_url")?;
    Ok(Provider {
        provider_id: ProviderId::from_uuid(row.try_get("provider_id")?),
        spec: ProviderSpec {
            name: row.try_get("name")?,
            serves: if row.try_get::<&str, _>("serves")? == Serves::Operators.as_str() {
                Serves::Operators
            } else {
                Serves::Organisations
            },
            org_id: row.try_get::<Option<_>, _>("org_id")?.map(OrgId::from_uuid),
            issuer: row.try_get("issuer")?,
            audiences: row.try_get("audiences")?,
            jwks_url: url.parse().map_err(|_| LedgerError::Corrupt("jwks_url"))?,
            algorithms: algorithms.ok_or(LedgerError::Corrupt("algorithms"))?,
            leeway_seconds: u32::try_from(row.try_get::<i32, _>("leeway_seconds")?)
                .map_err(|_| LedgerError::Corrupt("leeway_seconds"))?,
            user_claim: row.try_get("user_claim")?,
            org_claim: row.try_get("org_claim")?,
            team_claim: row.try_get("team_claim")?,
            role_claim: row.try_get("role_claim")?,
            role_map: row.try_get::<Json<_>, _>("role_map")?.0,
            create_users: row.try_get("create_users")?,
            suspended: row.try_get::<&str, _>("status")? == "suspended",
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
        .bind(spec.serves.as_str())
        .bind(spec.org_id.map(OrgId::as_uuid))
        .execute(&mut *change)
        .bounded()
        .await?;
        change.commit().await?;
        Ok(id)
    }

    /// All identity providers that were not deleted, oldest first.
    pub async fn providers(&self) -> Result<Vec<Provider>, LedgerError> {
        let rows =
            sqlx::query("select * from identity_provider where deleted_at is null order by provider_id");
        rows.fetch_all(self.pool()).bounded().await?.iter().map(provider).collect()
    }

    /// One identity provider that was not deleted.
    pub async fn provider(&self, id: ProviderId) -> Result<Option<Provider>, LedgerError> {
        let row =
            sqlx::query("select * from identity_provider where provider_id = $1 and deleted_at is null")
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
        let row = sqlx::query(
            "update identity_provider set name = $2, issuer = $3, audiences = $4, jwks_url = $5, algorithms = $6, \
             leeway_seconds = $7, user_claim = $8, org_claim = $9, team_claim = $10, role_claim = $11, role_map = $12, \
             create_users = $13, status = $14 where provider_id = $1 returning *",
        )
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
    let row = sqlx::query(
        "select * from identity_provider where provider_id = $1 and deleted_at is null for update",
    )
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
        let algorithms: Vec<&str> = spec.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
        self.bind(id.as_uuid())
            .bind(&spec.name)
            .bind(&spec.issuer)
            .bind(&spec.audiences)
            .bind(spec.jwks_url.as_str())
            .bind(algorithms)
            .bind(i32::try_from(spec.leeway_seconds).unwrap_or(i32::MAX))
            .bind(&spec.user_claim)
            .bind(&spec.org_claim)
            .bind(&spec.team_claim)
            .bind(&spec.role_claim)
            .bind(Json(&spec.role_map))
            .bind(spec.create_users)
            .bind(if spec.suspended { "suspended" } else { "active" })
    }
}
