//! How many users, teams, keys and budgets an organisation may have, and how many changes its people may make.

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
        /// Changes that the organisation's own people ask for on one UTC day; what only revokes or deletes does not count.
        Changes = "changes",
    }
}

/// A quota of an organisation, and how much of it is used.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Quota {
    pub kind: QuotaKind,
    /// How many the organisation has; of changes: today's.
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

    /// Counts a change that somebody of `org` asks for, before it is made; an error, with the quota: as many were asked for today as
    /// may be. The count is a row of its own, which is locked for no longer than this statement.
    pub async fn count_change(&self, org: OrgId) -> Result<Result<(), i32>, StoreError> {
        let (most, counted): (i32, bool) = sqlx::query_as(
            "with allowed as (select coalesce(special.most, platform.most) as most from quota platform \
                 left join quota special on special.org_id = $1 and special.kind = platform.kind \
                 where platform.org_id is null and platform.kind = $2), \
             counted as (insert into change_count as c (org_id, day, changes) \
                 select $1, (now() at time zone 'UTC')::date, 1 from allowed where allowed.most > 0 \
                 on conflict (org_id) do update set day = excluded.day, \
                     changes = case when c.day = excluded.day then c.changes + 1 else 1 end \
                 where c.day <> excluded.day or c.changes < (select allowed.most from allowed) \
                 returning c.changes) \
             select allowed.most, exists (select from counted) from allowed",
        )
        .bind(org.as_uuid())
        .bind(QuotaKind::Changes.as_str())
        .fetch_one(self.pool())
        .await?;
        Ok(if counted { Ok(()) } else { Err(most) })
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
