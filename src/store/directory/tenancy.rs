//! Organisations, teams and users, as people manage them. No row is ever removed: what is deleted keeps its credits and
//! its history, and its name can be used again.

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::{Credits, PriceFactor};
use crate::ids::{BudgetId, HoldId, KeyId, OrgId, TeamId, UserId};
use crate::store::credits::balance::Balance;
use crate::store::credits::balance::balance;
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;

mod deletion;
mod forget;
mod orgs;
mod quotas;
mod teams;
mod users;

pub use crate::store::directory::tenancy::deletion::{DeletedOrg, RemainingCredits};
pub use crate::store::directory::tenancy::forget::ForgottenUser;
pub use crate::store::directory::tenancy::orgs::{NewOrg, Org, OrgChange, OrgFilter};
pub use crate::store::directory::tenancy::quotas::{Quota, QuotaKind};
pub use crate::store::directory::tenancy::teams::{Team, TeamChange};
pub use crate::store::directory::tenancy::users::{NewUser, User, UserChange, UserFilter};

words! {
    /// Whether something may be used. Creates of a suspended organisation, team or user are refused, but its tasks can
    /// be read and end as usual. A suspension can be lifted.
    pub enum Status in "org.status", "team.status", "app_user.status", "identity_provider.status" {
        Active = "active",
        Suspended = "suspended",
    }
}

/// The id of something that belongs to an organisation.
#[derive(Debug, Clone, Copy)]
pub enum Owned {
    Team(TeamId),
    User(UserId),
    Key(KeyId),
    Hold(HoldId),
    Budget(BudgetId),
}

impl Database {
    /// The organisation that `owned` belongs to, and the user where it is one's own; `None` if there is no such thing.
    pub async fn owner(&self, owned: Owned) -> Result<Option<(OrgId, Option<UserId>)>, StoreError> {
        let (sql, id) = match owned {
            Owned::Team(id) => ("select org_id, null::uuid from team where team_id = $1", id.as_uuid()),
            Owned::User(id) => ("select org_id, user_id from app_user where user_id = $1", id.as_uuid()),
            Owned::Key(id) => ("select org_id, user_id from api_key where key_id = $1", id.as_uuid()),
            Owned::Hold(id) => (
                "select h.org_id, null::uuid from org o cross join lateral \
                 (select org_id from hold h where h.org_id = o.org_id and h.hold_id = $1 limit 1) h",
                id.as_uuid(),
            ),
            Owned::Budget(id) => (
                // the platform's budgets belong to no organisation
                "select org_id, null::uuid from budget where budget_id = $1 and org_id is not null",
                id.as_uuid(),
            ),
        };
        let owner: Option<(Uuid, Option<Uuid>)> =
            sqlx::query_as(sql).bind(id).fetch_optional(self.pool()).await?;
        Ok(owner.map(|(org, user)| (OrgId::from_uuid(org), user.map(UserId::from_uuid))))
    }
}

/// A name that is in use already is a conflict, which the caller can mend.
fn taken(error: sqlx::Error, what: impl FnOnce() -> String) -> StoreError {
    match &error {
        sqlx::Error::Database(database) if database.is_unique_violation() => StoreError::Conflict(what()),
        _ => error.into(),
    }
}

/// The error of an update that changed no row: the row does not exist, or has another version.
fn unchanged(current: Option<i32>, what: impl FnOnce() -> String) -> StoreError {
    match current {
        Some(current) => StoreError::Stale { current },
        None => StoreError::NotFound(what()),
    }
}
