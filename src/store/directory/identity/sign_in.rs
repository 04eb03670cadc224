//! Subjects of identity providers as users: found, made at first sight, kept in step with what their tokens claim.

use std::sync::Arc;

use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::ids::{IdentityId, OrgId, UserId};
use crate::store::db::change::Change;
use crate::store::db::database::{Bounded, Database};
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
        .bounded()
        .await?;
        row.as_ref().map(found).transpose()
    }

    /// Makes a user of a subject that was never seen, if its provider may; takes over what a newer token says about team
    /// and role. Any number of gateways may do so at once.
    pub async fn sign_in(
        &self,
        provider: &Provider,
        presented: &Presented,
    ) -> Result<Option<FoundIdentity>, LedgerError> {
        let Some(wanted) = Wanted::of(provider, presented) else { return Ok(None) };
        let mut change = self.change().await?;
        let org: Option<(Uuid, bool)> = sqlx::query_as(concat!(
            "select o.org_id, o.deleted_at is null from org o where ",
            wanted!(),
            " for key share"
        ))
        .bind(wanted.own)
        .bind(wanted.id)
        .bind(wanted.name)
        .fetch_optional(&mut *change)
        .bounded()
        .await?;
        let Some((org, true)) = org else { return Ok(None) };
        let user = tied_user(&mut change, provider, presented, org).await?;
        match user {
            Some(user) => take_over(&mut change, provider, presented, org, user).await?,
            None if provider.spec.create_users => make_user(&mut change, provider, presented, org).await?,
            None => return Ok(None),
        }
        change.commit().await?;
        self.find_identity(provider, presented).await
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

/// The user a subject is tied to. Whoever asks for the same subject meanwhile waits.
async fn tied_user(
    change: &mut Change,
    provider: &Provider,
    presented: &Presented,
    org: Uuid,
) -> Result<Option<Uuid>, LedgerError> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1::text || $2::text || $3, 0))")
        .bind(provider.provider_id.as_uuid())
        .bind(org)
        .bind(&presented.subject)
        .execute(&mut **change)
        .bounded()
        .await?;
    let user = sqlx::query_scalar(
        "select user_id from user_identity where provider_id = $1 and org_id = $2 and subject = $3",
    );
    let user = user.bind(provider.provider_id.as_uuid()).bind(org).bind(&presented.subject);
    Ok(user.fetch_optional(&mut **change).bounded().await?)
}

/// A team that nobody knows changes nothing.
///
/// Locks the team, then the user, then what bumps the epoch, as whoever edits one of them.
async fn take_over(
    change: &mut Change,
    provider: &Provider,
    presented: &Presented,
    org: Uuid,
    user: Uuid,
) -> Result<(), LedgerError> {
    let team = team_of(change, org, presented).await?;
    sqlx::query("select from app_user where user_id = $1 for no key update")
        .bind(user)
        .execute(&mut **change)
        .bounded()
        .await?;
    let newer = sqlx::query(
        "update user_identity set claims_as_of = $4 \
         where provider_id = $1 and org_id = $2 and subject = $3 and claims_as_of < $4",
    )
    .bind(provider.provider_id.as_uuid())
    .bind(org)
    .bind(&presented.subject)
    .bind(presented.issued_at)
    .execute(&mut **change)
    .bounded()
    .await?;
    if newer.rows_affected() == 0 {
        return Ok(());
    }
    sqlx::query(
        "update app_user set role = coalesce($2, role), team_id = coalesce($3, team_id) \
         where user_id = $1 and deleted_at is null \
         and (role <> coalesce($2, role) or team_id is distinct from coalesce($3, team_id))",
    )
    .bind(user)
    .bind(presented.role)
    .bind(team)
    .execute(&mut **change)
    .bounded()
    .await?;
    Ok(())
}

/// The team that a token names, if there is one; nobody deletes it before this change is over.
async fn team_of(change: &mut Change, org: Uuid, presented: &Presented) -> Result<Option<Uuid>, LedgerError> {
    let Some(name) = &presented.team else { return Ok(None) };
    let team = sqlx::query_scalar(
        "select team_id from team where org_id = $1 and name = $2 and deleted_at is null for share",
    );
    Ok(team.bind(org).bind(name).fetch_optional(&mut **change).bounded().await?)
}

/// Called as its subject, or so that nobody takes it for another user of that name.
async fn make_user(
    change: &mut Change,
    provider: &Provider,
    presented: &Presented,
    org: Uuid,
) -> Result<(), LedgerError> {
    let user = UserId::generate();
    let team = team_of(change, org, presented).await?;
    let subject = &presented.subject;
    let names =
        [subject.clone(), format!("{subject} ({})", provider.spec.name), format!("{subject} ({user})")];
    for name in names {
        let done = sqlx::query(
            "insert into app_user (user_id, org_id, name, role, team_id) values ($1, $2, $3, $4, $5) \
             on conflict (org_id, name) where deleted_at is null do nothing",
        )
        .bind(user.as_uuid())
        .bind(org)
        .bind(name)
        .bind(presented.role.unwrap_or(Role::Member))
        .bind(team)
        .execute(&mut **change)
        .bounded()
        .await?;
        if done.rows_affected() > 0 {
            break;
        }
    }
    sqlx::query(
        "insert into user_identity (identity_id, provider_id, org_id, subject, user_id, claims_as_of) \
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(IdentityId::generate().as_uuid())
    .bind(provider.provider_id.as_uuid())
    .bind(org)
    .bind(subject)
    .bind(user.as_uuid())
    .bind(presented.issued_at)
    .execute(&mut **change)
    .bounded()
    .await?;
    Ok(())
}
