//! An organisation with everything a budget can be of.

use time::OffsetDateTime;
use tollgate::ids::{BudgetId, KeyId, OrgId, TeamId, UserId};
use tollgate::store::BudgetLevel::{self, Key, Organisation, Team, User};
use tollgate::store::{KeySpec, NewBudget, NewHold, NewUser, OrgChange, Period, Role, StoreError};

use super::database::TestDatabase;
use super::fixture::{credits, funded, new_hold};

/// An organisation with a team, and in it a user with a key.
pub struct Tenant {
    pub org: OrgId,
    pub team: TeamId,
    pub user: UserId,
    pub key: KeyId,
}

impl Tenant {
    pub async fn new(db: &TestDatabase, credits: i64) -> Self {
        let org = funded(db, credits).await;
        // Where it is not about midnight: no window may end while a test is under way.
        if [23, 0].contains(&OffsetDateTime::now_utc().hour()) {
            let zone = OrgChange { time_zone: Some("Etc/GMT-12".into()), ..OrgChange::default() };
            db.database().update_org(org, zone, None).await.unwrap();
        }
        let team = db.database().create_team(org, "film").await.unwrap();
        let new = NewUser { name: "ada".into(), role: Role::Member, team: Some(team) };
        let user = db.database().add_user(org, &new).await.unwrap();
        let key = key_of(db, org, user).await;
        Self { org, team, user, key }
    }

    pub fn hold(&self, amount: i64) -> NewHold {
        NewHold { user: self.user, key: Some(self.key), ..new_hold(self.org, amount) }
    }

    /// Of its own key, user, team or organisation.
    pub async fn budget(
        &self,
        db: &TestDatabase,
        level: BudgetLevel,
        period: Period,
        amount: i64,
    ) -> BudgetId {
        let subject = match level {
            Key => Some(self.key.to_string()),
            User => Some(self.user.to_string()),
            Team => Some(self.team.to_string()),
            Organisation => None,
        };
        make(db, Some(self.org), level, subject, period, Some(amount)).await.unwrap()
    }

    /// `(used, held, limit)` of what counts for its key.
    pub async fn drawn(&self, db: &TestDatabase) -> Vec<(i64, i64, Option<i64>)> {
        let budgets = db.database().budgets_of_caller(self.org, self.user, Some(self.key)).await.unwrap();
        budgets.iter().map(|b| (b.used.get(), b.held.get(), b.limit.map(|limit| limit.get()))).collect()
    }
}

pub async fn key_of(db: &TestDatabase, org: OrgId, user: UserId) -> KeyId {
    let spec = KeySpec { name: "a key".into(), env: "test".into(), ..KeySpec::default() };
    db.database().create_key(org, user, &spec).await.unwrap().0
}

pub async fn make(
    db: &TestDatabase,
    org: Option<OrgId>,
    level: BudgetLevel,
    subject: Option<String>,
    period: Period,
    amount: Option<i64>,
) -> Result<BudgetId, StoreError> {
    let new = NewBudget { org, level, subject, period, credits: amount.map(credits), thresholds: None };
    db.database().make_budget(&new).await
}
