//! Sign-ins at identity providers that have begun and not ended.

use super::*;
use crate::ids::{IdentityId, ProviderId, UserId};
use crate::store::directory::keys::{Principal, standing};

/// How many sign-ins of one network may be under way: a further one ends the oldest. Those of many people may have one address.
const MOST_OF_NETWORK: i64 = 500;

/// How many may be under way in all, so that strangers of many networks fill no table.
const MOST: i64 = 20_000;

impl Database {
    /// Stores that a sign-in at this provider has begun, for 10 minutes, and ends the oldest ones if there are too many.
    pub async fn begin_login(
        &self,
        hash: SessionHash,
        provider: ProviderId,
        back: &str,
        network: &str,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "with ended as (delete from console_login where login_sha256 in ( \
                 (select l.login_sha256 from console_login l where l.network = $4 order by l.created_at desc offset $5) \
                 union all (select l.login_sha256 from console_login l order by l.created_at desc offset $6))) \
             insert into console_login (login_sha256, provider_id, back, network) values ($1, $2, $3, $4)",
        )
        .bind(hash.0.as_slice())
        .bind(provider.as_uuid())
        .bind(back)
        .bind(network)
        .bind(MOST_OF_NETWORK - 1)
        .bind(MOST - 1)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Ends a sign-in: of several that try it at once, one gets its provider and the page to go to.
    pub async fn end_login(&self, hash: SessionHash) -> Result<Option<(ProviderId, String)>, StoreError> {
        let row = sqlx::query(
            "delete from console_login where login_sha256 = $1 and created_at > now() - interval '10 minutes' \
             returning provider_id, back",
        )
        .bind(hash.0.as_slice())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((ProviderId::from_uuid(row.try_get("provider_id")?), row.try_get("back")?)))
    }

    /// The user that a subject of an identity provider is, if a session may stand for it: neither the user nor the provider is
    /// suspended or deleted, and the console signs people in there.
    pub async fn standing_of_identity(&self, identity: IdentityId) -> Result<Option<Principal>, StoreError> {
        let row = sqlx::query(concat!(
            "select ",
            standing!(),
            " from user_identity i join identity_provider p on p.provider_id = i.provider_id \
             join org o on o.org_id = i.org_id join app_user u on u.user_id = i.user_id \
             left join team t on t.team_id = u.team_id \
             where i.identity_id = $1 and p.deleted_at is null and p.status = 'active' and p.console_client_id is not null \
               and u.status = 'active' and u.deleted_at is null and o.deleted_at is null"
        ))
        .bind(identity.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(Principal::of).transpose()
    }

    /// A user, if a session may stand for it: it is neither suspended nor deleted.
    pub async fn standing_of_user(&self, user: UserId) -> Result<Option<Principal>, StoreError> {
        let row = sqlx::query(concat!(
            "select ",
            standing!(),
            " from app_user u join org o on o.org_id = u.org_id left join team t on t.team_id = u.team_id \
             where u.user_id = $1 and u.status = 'active' and u.deleted_at is null and o.deleted_at is null"
        ))
        .bind(user.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(Principal::of).transpose()
    }
}
