//! Subjects of identity providers as users: finding them, creating them at first sight, and updating them by what their
//! tokens claim.

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::ids::{IdentityId, OrgId, UserId};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::directory::identity::Provider;
use crate::store::directory::keys::standing;
use crate::store::directory::keys::{Principal, Role};

/// The claims of a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// The subject, as the provider names the user.
    pub subject: String,
    /// The id or name of the organisation; `None`: the token claims none.
    pub organisation: Option<String>,
    /// The name of the team; `None`: the token claims none.
    pub team: Option<String>,
    /// The role that the claims give; `None`: the provider does not give roles.
    pub role: Option<Role>,
    /// When the token was issued, in seconds since 1970; 0: the token does not say.
    pub issued_at: i64,
}

/// The user that a subject is linked to.
#[derive(Debug, Clone)]
pub struct FoundIdentity {
    pub identity: IdentityId,
    /// The user, and what it may do.
    pub principal: Arc<Principal>,
    /// Whether the user or its organisation was deleted.
    pub gone: bool,
    team: Option<String>,
    claims_as_of: i64,
}

impl FoundIdentity {
    /// Whether the token claims another team or role and is newer than the claims that are stored. An older token never
    /// undoes what a newer one claimed.
    pub fn is_outdated_by(&self, presented: &Presented) -> bool {
        let other_role = presented.role.is_some_and(|role| role != self.principal.role);
        let other_team = presented.team.is_some() && presented.team != self.team;
        presented.issued_at > self.claims_as_of && (other_role || other_team) && !self.gone
    }
}

/// The organisation that a token must be for: the provider's own, the claimed one, or one that is both.
struct Wanted<'a> {
    own: Option<Uuid>,
    id: Option<Uuid>,
    name: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn of(provider: &Provider, presented: &'a Presented) -> Option<Self> {
        let own = provider.spec.org_id.map(OrgId::as_uuid);
        let claimed = presented.organisation.as_deref();
        let id = claimed.and_then(|text| text.parse::<OrgId>().ok()).map(OrgId::as_uuid);
        let name = claimed.filter(|_| id.is_none());
        (own.is_some() || claimed.is_some()).then_some(Self { own, id, name })
    }
}

macro_rules! wanted {
    () => {
        "($1::uuid is null or o.org_id = $1) and ($2::uuid is null or o.org_id = $2) \
         and ($3::text is null or (o.name = $3 and o.deleted_at is null))"
    };
}

impl Database {
    /// The user that a token's bearer is; `None` if the subject was never seen, or its user is not of the wanted
    /// organisation.
    pub async fn find_identity(
        &self,
        provider: &Provider,
        presented: &Presented,
    ) -> Result<Option<FoundIdentity>, StoreError> {
        let Some(wanted) = Wanted::of(provider, presented) else { return Ok(None) };
        let row = sqlx::query(concat!(
            "select ",
            standing!(),
            ", t.name as team, i.claims_as_of, i.identity_id from user_identity i join org o using (org_id) \
             join app_user u on u.user_id = i.user_id left join team t on t.team_id = u.team_id \
             where i.provider_id = $4 and i.subject = $5 and ",
            wanted!()
        ))
        .bind(wanted.own)
        .bind(wanted.id)
        .bind(wanted.name)
        .bind(provider.provider_id.as_uuid())
        .bind(&presented.subject)
        .fetch_optional(self.pool())
        .await?;
        row.as_ref().map(found).transpose()
    }
}

fn found(row: &PgRow) -> Result<FoundIdentity, StoreError> {
    Ok(FoundIdentity {
        identity: IdentityId::from_uuid(row.try_get("identity_id")?),
        principal: Arc::new(Principal::of(row)?),
        gone: row.try_get("gone")?,
        team: row.try_get("team")?,
        claims_as_of: row.try_get("claims_as_of")?,
    })
}

impl Acting {
    /// Creates a user for a subject that was never seen, if the provider may create users, and stores the team and role
    /// that a newer token claims. Any number of gateways may call this at the same time.
    pub async fn sign_in(
        &self,
        provider: &Provider,
        presented: &Presented,
    ) -> Result<Option<FoundIdentity>, StoreError> {
        let Some(wanted) = Wanted::of(provider, presented) else { return Ok(None) };
        let user = UserId::generate();
        let subject = &presented.subject;
        // The user is named like the subject, or so that it is not mistaken for another user of that name.
        let names =
            [subject.clone(), format!("{subject} ({})", provider.spec.name), format!("{subject} ({user})")];
        let known: bool =
            sqlx::query_scalar("select sign_in($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)")
                .bind(provider.provider_id.as_uuid())
                .bind(wanted.own)
                .bind(wanted.id)
                .bind(wanted.name)
                .bind(subject)
                .bind(presented.issued_at)
                .bind(presented.role)
                .bind(&presented.team)
                .bind(provider.spec.create_users)
                .bind(user.as_uuid())
                .bind(IdentityId::generate().as_uuid())
                .bind(names.as_slice())
                .fetch_one(self.change())
                .await?;
        if known { self.find_identity(provider, presented).await } else { Ok(None) }
    }
}
