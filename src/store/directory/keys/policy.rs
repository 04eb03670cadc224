//! What members of an organisation may do with keys of their own: a policy that its admin sets.

use sqlx::postgres::PgRow;

use super::*;
use crate::credits::Credits;
use crate::ids::BudgetId;
use crate::secret::Secret;
use crate::store::budgets::Period;
use crate::store::db::change::Acting;
use crate::store::directory::keys::manage::{check_name, new_key, texts};

/// The budget that each key of a member is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBudget {
    pub period: Period,
    /// The limit in credits.
    #[schema(minimum = 0)]
    pub credits: Credits,
}

/// What members of an organisation may do with keys of their own.
#[derive(Debug, Clone, serde::Serialize, utoipa::ToSchema)]
pub struct KeyPolicy {
    /// Whether members may create, rename, rotate and revoke keys of their own.
    pub enabled: bool,
    /// How many keys a member may have that are neither revoked nor expired.
    pub max_keys: i32,
    /// The longest life of a key that a member creates, in days; null: no end is needed.
    pub max_days: Option<i32>,
    /// Task types that keys of members may create; null: all.
    pub allowed_types: Option<Vec<String>>,
    /// The budget that each key of a member is created with; null: none.
    pub key_budget: Option<KeyBudget>,
    /// 0: nobody has set a policy yet.
    pub version: i32,
}

/// Changes of a policy; a field that is `None` keeps its value.
#[derive(Debug, Clone, Default)]
pub struct KeyPolicyChange {
    pub enabled: Option<bool>,
    pub max_keys: Option<i32>,
    pub max_days: Option<Option<i32>>,
    pub allowed_types: Option<Option<Vec<String>>>,
    pub key_budget: Option<Option<KeyBudget>>,
}

/// How many keys a member may have where the policy does not say.
const MAX_KEYS: i32 = 3;

words! {
    /// Why a member gets no key.
    pub enum KeyVerdict in "create_member_key()" {
        Made = "made",
        /// The organisation has no such user.
        Unknown = "unknown",
        /// Members make no keys.
        Off = "off",
        /// The member has as many keys as it may have.
        TooMany = "many",
        /// The member has made too many keys within a day.
        TooOften = "often",
        /// The key would live longer than it may.
        TooLong = "long",
        /// The key could create more task types than it may.
        Types = "types",
        /// The key could be used from more networks than the one that the member calls with.
        Networks = "networks",
    }
}

fn policy(row: &PgRow) -> Result<KeyPolicy, StoreError> {
    let period: Option<Period> = row.try_get("budget_period")?;
    let credits: Option<i64> = row.try_get("budget_credits")?;
    Ok(KeyPolicy {
        enabled: row.try_get("enabled")?,
        max_keys: row.try_get("max_keys")?,
        max_days: row.try_get("max_days")?,
        allowed_types: row.try_get("allowed_types")?,
        key_budget: period
            .zip(credits)
            .map(|(period, credits)| KeyBudget { period, credits: Credits::new(credits) }),
        version: row.try_get("version")?,
    })
}

fn check(change: &KeyPolicyChange) -> Result<(), StoreError> {
    let invalid = |why: &str| Err(StoreError::Invalid(why.into()));
    if change.max_keys.is_some_and(|most| !(0..=1000).contains(&most)) {
        return invalid("max_keys must be from 0 to 1000");
    }
    if change.max_days.flatten().is_some_and(|most| !(1..=3650).contains(&most)) {
        return invalid("max_days must be from 1 to 3650, or null");
    }
    if change.key_budget.flatten().is_some_and(|budget| budget.credits < Credits::ZERO) {
        return invalid("a budget cannot be negative");
    }
    Ok(())
}

impl Database {
    /// The policy of an organisation; `None`: there is no such organisation.
    pub async fn key_policy(&self, org: OrgId) -> Result<Option<KeyPolicy>, StoreError> {
        let row = sqlx::query(
            "select coalesce(p.enabled, false) as enabled, coalesce(p.max_keys, $2) as max_keys, p.max_days, p.allowed_types, \
             p.budget_period, p.budget_credits, coalesce(p.version, 0) as version \
             from org o left join key_policy p using (org_id) where o.org_id = $1 and o.deleted_at is null",
        )
        .bind(org.as_uuid())
        .bind(MAX_KEYS);
        row.fetch_optional(self.pool()).await?.as_ref().map(policy).transpose()
    }
}

impl Acting {
    /// Changes the policy of an organisation, if its version is still `version` (`None`: any version).
    pub async fn change_key_policy(
        &self,
        org: OrgId,
        change: &KeyPolicyChange,
        version: Option<i32>,
    ) -> Result<KeyPolicy, StoreError> {
        check(change)?;
        let types = change.allowed_types.as_ref().and_then(Option::as_ref);
        self.check_bounds(None, types, None).await?;
        let budget = change.key_budget.flatten();
        let row = sqlx::query(
            "insert into key_policy as p (org_id, enabled, max_keys, max_days, allowed_types, budget_period, budget_credits) \
             select o.org_id, coalesce($2, false), coalesce($3, $11), $5, $7, $9, $10 from org o \
             where o.org_id = $1 and o.deleted_at is null \
               and (coalesce($12, 0) = 0 or exists (select from key_policy k where k.org_id = o.org_id)) \
             on conflict (org_id) do update set enabled = coalesce($2, p.enabled), max_keys = coalesce($3, p.max_keys), \
               max_days = case when $4 then $5 else p.max_days end, \
               allowed_types = case when $6 then $7 else p.allowed_types end, \
               budget_period = case when $8 then $9 else p.budget_period end, \
               budget_credits = case when $8 then $10 else p.budget_credits end \
             where p.version = coalesce($12, p.version) \
             returning p.enabled, p.max_keys, p.max_days, p.allowed_types, p.budget_period, p.budget_credits, p.version",
        )
        .bind(org.as_uuid())
        .bind(change.enabled)
        .bind(change.max_keys)
        .bind(change.max_days.is_some())
        .bind(change.max_days.flatten())
        .bind(change.allowed_types.is_some())
        .bind(types)
        .bind(change.key_budget.is_some())
        .bind(budget.map(|budget| budget.period))
        .bind(budget.map(|budget| budget.credits.get()))
        .bind(MAX_KEYS)
        .bind(version)
        .fetch_optional(self.change())
        .await?;
        match row {
            Some(row) => policy(&row),
            None => match self.key_policy(org).await? {
                Some(KeyPolicy { version: current, .. }) => Err(StoreError::Stale { current }),
                None => Err(StoreError::NotFound(format!("there is no {org}"))),
            },
        }
    }

    /// Makes a key that a member asks for itself, calling with the key `caller`, if the policy of its organisation allows it:
    /// the policy is looked at in the statement that makes the key. The text is there if the key was made.
    pub async fn create_member_key(
        &self,
        (org, user): (OrgId, UserId),
        caller: Option<KeyId>,
        spec: &KeySpec,
    ) -> Result<(KeyVerdict, KeyId, Secret), StoreError> {
        check_name(&spec.name)?;
        let new = new_key(&spec.env)?;
        let (types, networks) = (spec.allowed_types.as_ref(), spec.allowed_networks.as_ref());
        self.check_bounds(spec.expires_at, types, networks).await?;
        let key = KeyId::generate();
        let verdict: KeyVerdict =
            sqlx::query_scalar("select create_member_key($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)")
                .bind(org.as_uuid())
                .bind(user.as_uuid())
                .bind(caller.map(KeyId::as_uuid))
                .bind(key.as_uuid())
                .bind(&new.public_id)
                .bind(new.secret.as_bytes())
                .bind(&spec.name)
                .bind(&spec.env)
                .bind(types)
                .bind(texts(networks))
                .bind(spec.expires_at)
                .bind(BudgetId::generate().as_uuid())
                .fetch_one(self.change())
                .await?;
        Ok((verdict, key, new.text))
    }
}
