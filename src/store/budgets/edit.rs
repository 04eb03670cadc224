//! Creating, changing, raising and deleting budgets. Triggers note what is to be done then in the organisations that a
//! budget applies to ([`super::counting`]).

use time::OffsetDateTime;

use super::counting::Counting;
use super::*;
use crate::store::db::change::Acting;

/// A budget that is to be created.
#[derive(Debug, Clone)]
pub struct NewBudget {
    /// The organisation of the budget; `None`: the platform's default.
    pub org: Option<OrgId>,
    /// The level of the budget: whose spending it limits.
    pub level: BudgetLevel,
    /// The id of the key, user or team in its text form; `None`: every subject of the level.
    pub subject: Option<String>,
    pub period: Period,
    /// The limit in credits; `None`: no limit, even if a wider default has one.
    pub credits: Option<Credits>,
    /// Percentages of the limit at which events are recorded; `None`: 50, 80, 100.
    pub thresholds: Option<Vec<i32>>,
}

/// Changes of a budget; a field that is `None` keeps its value.
#[derive(Debug, Clone, Default)]
pub struct BudgetChange {
    /// The limit in credits; `Some(None)`: no limit.
    pub credits: Option<Option<Credits>>,
    /// Percentages of the limit at which events are recorded.
    pub thresholds: Option<Vec<i32>>,
}

fn sound_thresholds(thresholds: Option<Vec<i32>>) -> Result<Option<Vec<i32>>, StoreError> {
    let Some(mut thresholds) = thresholds else { return Ok(None) };
    if thresholds.len() > 10 || thresholds.iter().any(|percent| !(1..=100).contains(percent)) {
        return Err(StoreError::Invalid("thresholds are at most ten percentages from 1 to 100".into()));
    }
    thresholds.sort_unstable();
    thresholds.dedup();
    Ok(Some(thresholds))
}

fn sound(credits: Option<Credits>) -> Result<(), StoreError> {
    match credits {
        Some(credits) if credits < Credits::ZERO => {
            Err(StoreError::Invalid("a budget cannot be negative".into()))
        }
        _ => Ok(()),
    }
}

impl Acting {
    /// Creates a budget. It is in force when what was spent in its present window is counted: at the return from here,
    /// unless that takes long.
    pub async fn make_budget(&self, new: &NewBudget) -> Result<BudgetId, StoreError> {
        sound(new.credits)?;
        let thresholds = sound_thresholds(new.thresholds.clone())?;
        let subject_id = new.subject.as_deref().map(|text| new.level.subject(text)).transpose()?;
        match (new.org, subject_id) {
            (Some(org), subject_id) => self.known(org, new, subject_id).await?,
            (None, Some(_)) => {
                return Err(StoreError::Invalid("the platform's defaults name no subject".into()));
            }
            (None, None) => {}
        }
        let budget = BudgetId::generate();
        sqlx::query(
            "insert into budget (budget_id, org_id, level, subject_id, period, credits, thresholds) \
             values ($1, $2, $3, $4, $5, $6, coalesce($7, '{50,80,100}'))",
        )
        .bind(budget.as_uuid())
        .bind(new.org.map(OrgId::as_uuid))
        .bind(new.level)
        .bind(subject_id.map(|subject| subject.0))
        .bind(new.period)
        .bind(new.credits.map(Credits::get))
        .bind(thresholds)
        .execute(self.change())
        .await
        .map_err(|error| match &error {
            sqlx::Error::Database(e) if e.is_unique_violation() => StoreError::Conflict(
                "there is a budget of this level, subject and period already: change it".into(),
            ),
            _ => error.into(),
        })?;
        self.await_count(Counting::OfBudget(budget)).await;
        Ok(budget)
    }

    /// Changes a budget, if its version is still `version`. A new limit below what was already spent refuses new
    /// creates only.
    pub async fn change_budget(
        &self,
        budget: BudgetId,
        new: BudgetChange,
        version: Option<i32>,
    ) -> Result<(), StoreError> {
        sound(new.credits.flatten())?;
        let thresholds = sound_thresholds(new.thresholds)?;
        let done = sqlx::query(
            "update budget set credits = case when $2 then $3 else credits end, thresholds = coalesce($4, thresholds) \
             where budget_id = $1 and version = coalesce($5, version)",
        )
        .bind(budget.as_uuid())
        .bind(new.credits.is_some())
        .bind(new.credits.flatten().map(Credits::get))
        .bind(thresholds)
        .bind(version)
        .execute(self.change())
        .await?;
        self.changed(done.rows_affected(), budget).await
    }

    /// Raises a budget to `credits` until an instant, after which the former limit is in force again. `None` ends the
    /// raise now.
    pub async fn raise_budget(
        &self,
        budget: BudgetId,
        raise: Option<(Credits, OffsetDateTime)>,
        version: Option<i32>,
    ) -> Result<(), StoreError> {
        if let Some((credits, until)) = raise {
            self.raisable(budget, credits, until).await?;
        }
        let done = sqlx::query(
            "update budget set raised_to = $2, raised_until = $3 \
             where budget_id = $1 and version = coalesce($4, version) and ($2::bigint is null or credits < $2)",
        )
        .bind(budget.as_uuid())
        .bind(raise.map(|(credits, _)| credits.get()))
        .bind(raise.map(|(_, until)| until))
        .bind(version)
        .execute(self.change())
        .await?;
        self.changed(done.rows_affected(), budget).await
    }

    /// Deletes a budget. What was spent stays counted, and counts again for a budget that is created in its place.
    pub async fn delete_budget(&self, budget: BudgetId, version: Option<i32>) -> Result<(), StoreError> {
        let done = sqlx::query("delete from budget where budget_id = $1 and version = coalesce($2, version)")
            .bind(budget.as_uuid())
            .bind(version)
            .execute(self.change())
            .await?;
        self.changed(done.rows_affected(), budget).await
    }

    async fn changed(&self, changed: u64, budget: BudgetId) -> Result<(), StoreError> {
        if changed > 0 {
            // The events of a default are raised in one organisation after the other.
            self.await_count(Counting::OfBudget(budget)).await;
            return Ok(());
        }
        Err(match self.budget(budget).await? {
            Some(Budget { version: current, .. }) => StoreError::Stale { current },
            None => StoreError::NotFound(format!("there is no {budget}")),
        })
    }
}

impl Database {
    /// Checks that a budget exists, has a limit, and that the raise is above the limit and ends in the future.
    async fn raisable(
        &self,
        budget: BudgetId,
        credits: Credits,
        until: OffsetDateTime,
    ) -> Result<(), StoreError> {
        let (higher, later): (Option<bool>, bool) =
            sqlx::query_as("select credits < $2, $3 > now() from budget where budget_id = $1")
                .bind(budget.as_uuid())
                .bind(credits.get())
                .bind(until)
                .fetch_optional(self.pool())
                .await?
                .ok_or_else(|| StoreError::NotFound(format!("there is no {budget}")))?;
        let what = match (higher, later) {
            (None, _) => "this budget has no limit that could be raised",
            (Some(false), _) => "a raise must be above the budget: to lower it, change it",
            (_, false) => "a raise must end in the future",
            (Some(true), true) => return Ok(()),
        };
        Err(StoreError::Invalid(what.into()))
    }

    /// Checks that the organisation exists and that the subject belongs to it.
    async fn known(
        &self,
        org: OrgId,
        new: &NewBudget,
        subject: Option<BudgetSubject>,
    ) -> Result<(), StoreError> {
        let (org_known, subject_known): (bool, bool) = sqlx::query_as(
            "select exists (select from org where org_id = $1 and deleted_at is null), $3::uuid is null or case $2 \
               when 'key' then exists (select from api_key where org_id = $1 and key_id = $3) \
               when 'user' then exists (select from app_user where org_id = $1 and user_id = $3 and deleted_at is null) \
               when 'team' then exists (select from team where org_id = $1 and team_id = $3 and deleted_at is null) \
               else false end",
        )
        .bind(org.as_uuid())
        .bind(new.level)
        .bind(subject.map(|subject| subject.0))
        .fetch_one(self.pool())
        .await?;
        if !org_known {
            return Err(StoreError::NotFound(format!("there is no {org}")));
        }
        if !subject_known {
            return Err(StoreError::NotFound(format!(
                "{org} has no {}",
                new.subject.as_deref().unwrap_or_default()
            )));
        }
        Ok(())
    }
}
