//! Subjects of identity providers as users: found, made at first sight, kept in step with what their tokens claim.

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::ids::{IdentityId, OrgId, UserId};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::LedgerError;
use crate::store::directory::identity::Provider;
use crate::store::directory::keys::standing;
use crate::store::directory::keys::{Principal, Role};

/// What a verified token says of its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Which user, in the provider's words.
    pub subject: String,
    /// Which organisation, by id or name; none: it does not say.
    pub organisation: Option<String>,
    /// Which team, by name; none: it does not say.
    pub team: Option<String>,
    /// Which role; none: the provider has no say in that.
    pub role: Option<Role>,
    /// When it was issued, in seconds since 1970; 0: it does not say.
    pub issued_at: i64,
}

/// The user that a subject is.
#[derive(Debug, Clone)]
pub struct FoundIdentity {
    /// Who it stands for.
    pub principal: Arc<Principal>,
    /// Whether user or organisation were deleted.
    pub gone: bool,
    team: Option<String>,
    claims_as_of: i64,
}

impl FoundIdentity {
    /// Whether the token says otherwise about team or role, and later than what is known. An older token never takes
    /// back what a newer one said.
    pub fn is_outdated_by(&self, presented: &Presented) -> bool {
        let other_role = presented.role.is_some_and(|role| role != self.principal.role);
        let other_team = presented.team.is_some() && presented.team != self.team;
        presented.issued_at > self.claims_as_of && (other_role || other_team) && !self.gone
    }
}

/// The organisation a token may be for: the provider's own, and the one that is claimed. Both, if both are given.
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
    /// The user that the bearer of a token is; nothing if it was never seen, or may not be of that organisation.
    pub async fn find_identity(
        &self,
        provider: &Provider,
        presented: &Presented,
    ) -> Result<Option<FoundIdentity>, LedgerError> {
        let Some(wanted) = Wanted::of(provider, presented) else { return Ok(None) };
        let row = sqlx::query(concat!(
            "select ",
            standing!(),
            ", t.name as team, i.claims_as_of from user_identity i join org o using (org_id) \
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

fn found(row: &PgRow) -> Result<FoundIdentity, LedgerError> {
    Ok(FoundIdentity {
        principal: Arc::new(Principal::of(row)?),
        gone: row.try_get("gone")?,
        team: row.try_get("team")?,
        claims_as_of: row.try_get("claims_as_of")?,
    })
}

impl Acting {
    /// Makes a user of a subject that was never seen, if its provider may; takes over what a newer token says about team
    /// and role. Any number of gateways may do so at once.
    pub async fn sign_in(
        &self,
        provider: &Provider,
        presented: &Presented,
    ) -> Result<Option<FoundIdentity>, LedgerError> {
        let Some(wanted) = Wanted::of(provider, presented) else { return Ok(None) };
        let user = UserId::generate();
        let subject = &presented.subject;
        // Called as its subject, or so that nobody takes it for another user of that name.
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
