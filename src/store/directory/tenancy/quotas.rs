//! How many users, teams, keys and budgets an organisation may have.

use super::*;

words! {
    /// What a quota limits.
    pub enum QuotaKind in "quota.kind" {
        /// Users that are not deleted.
        Users = "users",
        /// Teams that are not deleted.
        Teams = "teams",
        /// API keys that are not revoked.
        Keys = "keys",
        /// Budgets of the organisation, its teams, users and keys.
        Budgets = "budgets",
    }
}

/// A quota of an organisation, and how much of it is used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Quota {
    pub kind: QuotaKind,
    /// How many the organisation has.
    pub used: i64,
    /// How many the organisation may have.
    pub most: i32,
    /// Whether an operator has set this quota for the organisation; otherwise it is the platform's.
    pub own: bool,
}

impl Database {
    /// The quotas of an organisation.
    pub async fn quotas(&self, org: OrgId) -> Result<Vec<Quota>, StoreError> {
        let rows: Vec<(QuotaKind, i64, i32, bool)> = sqlx::query_as(
            "select kind.name, usage.used, usage.most, usage.own from unnest($2::text[]) with ordinality kind(name, place) \
             cross join lateral quota_of($1, kind.name) usage order by kind.place",
        )
        .bind(org.as_uuid())
        .bind(QuotaKind::ALL.map(QuotaKind::as_str))
        .fetch_all(self.pool())
        .await?;
        Ok(rows.into_iter().map(|(kind, used, most, own)| Quota { kind, used, most, own }).collect())
    }
}

impl Acting {
    /// Sets quotas of an organisation; `None`: the platform's count again. What the organisation has already, it keeps.
    pub async fn set_quotas(
        &self,
        org: OrgId,
        quotas: &[(QuotaKind, Option<i32>)],
    ) -> Result<(), StoreError> {
        let kinds: Vec<&str> = quotas.iter().map(|(kind, _)| kind.as_str()).collect();
        let most: Vec<Option<i32>> = quotas.iter().map(|(_, most)| *most).collect();
        let known: bool = sqlx::query_scalar(
            "with given as (select * from unnest($2::text[], $3::integer[]) as given(kind, most)), \
             known as (select org_id from org where org_id = $1 and deleted_at is null), \
             dropped as (delete from quota using known, given \
                         where quota.org_id = known.org_id and quota.kind = given.kind and given.most is null), \
             set as (insert into quota (org_id, kind, most) select known.org_id, given.kind, given.most from known, given \
                     where given.most is not null \
                     on conflict (org_id, kind) do update set most = excluded.most) \
             select exists (select from known)",
        )
        .bind(org.as_uuid())
        .bind(&kinds)
        .bind(&most)
        .fetch_one(self.change())
        .await?;
        if known { Ok(()) } else { Err(StoreError::NotFound(format!("there is no organisation {org}"))) }
    }
}
