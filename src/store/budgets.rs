//! Budgets: what a key, a user, a team or an organisation may spend in a day, a week, a month or ever.
//!
//! Each subject has one effective budget for a period: its own; else the one that its organisation has for every
//! subject of the level; else the platform's default for the level. If there is none of the three, there is no limit:
//! the platform has no default until an operator makes one. A create must be allowed by all budgets that apply to it.
//!
//! Spending (open holds and charges) is counted in windows, under the lock of the organisation's balance row. It
//! belongs to the window in which the hold was granted, whenever the hold ends. A budget that is made in the middle of
//! a window counts what was spent in it before, and is in force when that is counted ([`counting`]).

pub(in crate::store) mod counting;
mod edit;
mod requests;

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::Credits;
use crate::ids::{BudgetId, KeyId, OrgId, TeamId, UserId};
pub use crate::store::budgets::edit::{BudgetChange, NewBudget};
pub use crate::store::budgets::requests::{
    BudgetRequest, Grant, GrantVerdict, NewBudgetRequest, RequestFilter, RequestState, RequestVerdict,
};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;
use crate::store::db::words::words;
use crate::store::ledger::metered;

/// The most events reported at one time: the next run finds the rest.
const SOME: i64 = 1000;

words! {
    /// The level of a budget: whose spending it limits.
    pub enum BudgetLevel in "budget.level", "budget_request.level" {
        Key = "key",
        /// The spending of a user, with any key or without one.
        User = "user",
        /// The spending of all users of a team.
        Team = "team",
        Organisation = "organisation" stored "org",
    }
}

impl BudgetLevel {
    /// The subject of this level that `text` names; an error says which kind of id was expected.
    pub fn subject(self, text: &str) -> Result<BudgetSubject, StoreError> {
        let id = match self {
            Self::Key => text.parse().map(KeyId::as_uuid),
            Self::User => text.parse().map(UserId::as_uuid),
            Self::Team => text.parse().map(TeamId::as_uuid),
            Self::Organisation => {
                return Err(StoreError::Invalid("an organisation's budget names no subject".into()));
            }
        };
        id.map(BudgetSubject).map_err(|error| StoreError::Invalid(error.to_string()))
    }

    fn id(self, id: Uuid) -> String {
        match self {
            Self::Key => KeyId::from_uuid(id).to_string(),
            Self::User => UserId::from_uuid(id).to_string(),
            Self::Team => TeamId::from_uuid(id).to_string(),
            Self::Organisation => OrgId::from_uuid(id).to_string(),
        }
    }
}

/// The id of a key, a user or a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSubject(Uuid);

words! {
    /// How long the windows of a budget are. They begin by the clock of the organisation's time zone; weeks begin on
    /// Monday.
    pub enum Period in "budget.period", "budget_request.period", "key_policy.budget_period" {
        /// One window that never ends.
        Total = "total",
        Daily = "daily",
        Weekly = "weekly",
        Monthly = "monthly",
    }
}

/// A budget, and what was spent of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Budget {
    pub budget_id: BudgetId,
    /// The organisation of the budget; null: the platform's default.
    pub org_id: Option<OrgId>,
    /// The level of the budget: whose spending it limits.
    pub level: BudgetLevel,
    /// The id of the key, user or team; null: every subject of the level that has no budget of its own.
    pub subject_id: Option<String>,
    pub period: Period,
    /// The limit in credits; null: no limit, even if a wider default has one.
    pub credits: Option<Credits>,
    /// The limit while the budget is raised; null: it is not raised.
    pub raised_to: Option<Credits>,
    /// When the raise ends; an instant in the past: the raise is over.
    #[serde(with = "time::serde::rfc3339::option")]
    pub raised_until: Option<OffsetDateTime>,
    /// The limit in force now, in credits; null: no limit.
    pub limit: Option<Credits>,
    /// Percentages of the limit at which an event is recorded, once for each window and limit.
    pub thresholds: Vec<i32>,
    /// Credits charged in the present window; null: each subject has a window of its own.
    pub used: Option<Credits>,
    /// Credits that unfinished tasks hold in the present window; null: each subject has a window of its own.
    pub held: Option<Credits>,
    /// When the present window ends; null: never, or at another instant for each organisation.
    #[serde(with = "time::serde::rfc3339::option")]
    pub resets_at: Option<OffsetDateTime>,
    /// Whether earlier spending is still being counted. Until that is done the budget refuses nothing; a default of the
    /// platform: in the organisations whose turn is still to come.
    pub counting: bool,
    pub version: i32,
    /// When the budget was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

fn credits(row: &PgRow, column: &str) -> Result<Option<Credits>, sqlx::Error> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Credits::new))
}

impl FromRow<'_, PgRow> for Budget {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let level: BudgetLevel = row.try_get("level")?;
        Ok(Self {
            budget_id: BudgetId::from_uuid(row.try_get("budget_id")?),
            org_id: row.try_get::<Option<Uuid>, _>("org_id")?.map(OrgId::from_uuid),
            level,
            subject_id: row.try_get::<Option<Uuid>, _>("subject_id")?.map(|id| level.id(id)),
            period: row.try_get("period")?,
            credits: credits(row, "credits")?,
            raised_to: credits(row, "raised_to")?,
            raised_until: row.try_get("raised_until")?,
            limit: credits(row, "cap")?,
            thresholds: row.try_get("thresholds")?,
            used: credits(row, "used")?,
            held: credits(row, "held")?,
            resets_at: row.try_get("resets_at")?,
            counting: row.try_get("counting")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// Which budgets to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct BudgetFilter {
    /// Only budgets of this level.
    pub level: Option<BudgetLevel>,
    /// Only budgets of this key, user or team.
    pub subject: Option<BudgetSubject>,
    /// Only budgets of this period.
    pub period: Option<Period>,
}

/// A budget that applies to a caller.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct CallerBudget {
    /// The level of the budget: whose spending it limits.
    pub level: BudgetLevel,
    pub period: Period,
    /// The limit in credits; null: no limit.
    pub limit: Option<Credits>,
    pub used: Credits,
    /// Credits that unfinished tasks hold in the window.
    pub held: Credits,
    /// When the window ends; null: never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub resets_at: Option<OffsetDateTime>,
}

/// A budget that is in force: what a refused caller is told about it.
#[derive(Debug, Clone, Copy)]
pub struct BudgetInForce {
    /// The level of the budget: whose spending it limits.
    pub level: BudgetLevel,
    pub period: Period,
    /// The limit in credits.
    pub limit: Credits,
    /// When the window ends; `None`: never.
    pub resets_at: Option<OffsetDateTime>,
    /// The time from now until the window ends, by the database's clock.
    pub resets_in: Option<Duration>,
}

/// A threshold of a budget that was reached.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BudgetEvent {
    /// Events that were recorded later have greater ids.
    pub event_id: i64,
    pub org_id: OrgId,
    /// The budget whose threshold was reached; it may have been deleted since.
    pub budget_id: BudgetId,
    /// The level of the budget: whose spending it limits.
    pub level: BudgetLevel,
    /// The id of the key, user, team or organisation whose spending reached the threshold.
    pub subject_id: String,
    pub period: Period,
    /// The threshold, as a percentage of the limit.
    pub threshold: i32,
    pub limit: Credits,
    /// Credits held and charged in the window when the threshold was reached.
    pub spent: Credits,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

fn event(row: &PgRow) -> Result<BudgetEvent, sqlx::Error> {
    let level: BudgetLevel = row.try_get("level")?;
    Ok(BudgetEvent {
        event_id: row.try_get("event_id")?,
        org_id: OrgId::from_uuid(row.try_get("org_id")?),
        budget_id: BudgetId::from_uuid(row.try_get("budget_id")?),
        level,
        subject_id: level.id(row.try_get("subject_id")?),
        period: row.try_get("period")?,
        threshold: row.try_get("threshold")?,
        limit: Credits::new(row.try_get("credits")?),
        spent: Credits::new(row.try_get("spent")?),
        created_at: row.try_get("created_at")?,
    })
}

/// Budgets, each with its present window if it has only one.
macro_rules! budgets {
    ($rest:literal) => {
        concat!(
            "select b.budget_id, b.org_id, b.level, b.subject_id, b.period, b.credits, b.raised_to, b.raised_until, \
               b.thresholds, b.version, b.created_at, cap_of(b, now()) as cap, \
               case when w.subject_id is not null then coalesce(n.held, 0) end as held, \
               case when w.subject_id is not null then coalesce(n.used, 0) end as used, \
               nullif(window_end(b.period, o.time_zone, now()), 'infinity') as resets_at, \
               exists (select from budget_count c where c.budget_id = b.budget_id and c.coming) as counting \
             from budget b left join org o on o.org_id = b.org_id \
             cross join lateral (select case when b.level = 'org' then b.org_id else b.subject_id end) w(subject_id) \
             left join budget_window n on n.org_id = b.org_id and n.level = b.level and n.subject_id = w.subject_id \
               and n.period = b.period and n.starts_at = window_start(b.period, o.time_zone, now()) where ",
            $rest
        )
    };
}

impl Database {
    /// Budgets of `org` (`None`: the platform's defaults), oldest first.
    pub async fn list_budgets(
        &self,
        org: Option<OrgId>,
        filter: BudgetFilter,
        slice: Slice<BudgetId>,
    ) -> Result<Vec<Budget>, StoreError> {
        Ok(sqlx::query_as(budgets!(
            "b.org_id is not distinct from $1 and ($2::text is null or b.level = $2) \
             and ($3::uuid is null or b.subject_id = $3) and ($4::text is null or b.period = $4) \
             and ($5::uuid is null or b.budget_id > $5) order by b.budget_id limit $6"
        ))
        .bind(org.map(OrgId::as_uuid))
        .bind(filter.level)
        .bind(filter.subject.map(|subject| subject.0))
        .bind(filter.period)
        .bind(slice.after.map(BudgetId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?)
    }

    pub async fn budget(&self, budget: BudgetId) -> Result<Option<Budget>, StoreError> {
        let row = sqlx::query_as(budgets!("b.budget_id = $1")).bind(budget.as_uuid());
        Ok(row.fetch_optional(self.pool()).await?)
    }

    /// The budgets that apply to a caller, narrowest level first.
    pub async fn budgets_of_caller(
        &self,
        org: OrgId,
        user: UserId,
        key: Option<KeyId>,
    ) -> Result<Vec<CallerBudget>, StoreError> {
        let rows = sqlx::query(
            "select d.level, d.period, d.cap, coalesce(w.held, 0) as held, coalesce(w.used, 0) as used, \
               nullif(window_end(d.period, o.time_zone, now()), 'infinity') as resets_at \
             from org o, draw_budgets(array[$1], array[1], array[1], array[$2], array[$3], \
               array[(select u.team_id from app_user u where u.user_id = $2)], now()) a, \
             lateral (select distinct on (u.level, u.subject_id, u.period) u.* from \
               unnest(a.level, a.subject_id, a.period, a.starts_at, a.cap) with ordinality \
               u(level, subject_id, period, starts_at, cap, place) \
               order by u.level, u.subject_id, u.period, u.place) d \
             left join budget_window w on w.org_id = $1 and w.level = d.level and w.subject_id = d.subject_id \
               and w.period = d.period and w.starts_at = d.starts_at \
             where o.org_id = $1 order by d.place",
        )
        .bind(org.as_uuid())
        .bind(user.as_uuid())
        .bind(key.map(KeyId::as_uuid))
        .fetch_all(self.pool())
        .await?;
        let budget = |row: &PgRow| {
            Ok::<_, sqlx::Error>(CallerBudget {
                level: row.try_get("level")?,
                period: row.try_get("period")?,
                limit: credits(row, "cap")?,
                used: Credits::new(row.try_get("used")?),
                held: Credits::new(row.try_get("held")?),
                resets_at: row.try_get("resets_at")?,
            })
        };
        Ok(rows.iter().map(budget).collect::<Result<_, _>>()?)
    }

    /// What `budget` means for `org` now; `None` if it does not apply to `org` any more.
    pub async fn budget_in_force(
        &self,
        org: OrgId,
        budget: BudgetId,
    ) -> Result<Option<BudgetInForce>, StoreError> {
        let row = sqlx::query(
            "select b.level, b.period, cap_of(b, now()) as cap, e.resets_at, \
               extract(epoch from e.resets_at - now())::float8 as resets_in \
             from budget b, org o, lateral (select nullif(window_end(b.period, o.time_zone, now()), 'infinity')) e(resets_at) \
             where b.budget_id = $1 and o.org_id = $2 and cap_of(b, now()) is not null",
        )
        .bind(budget.as_uuid())
        .bind(org.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(BudgetInForce {
            level: row.try_get("level")?,
            period: row.try_get("period")?,
            limit: Credits::new(row.try_get("cap")?),
            resets_at: row.try_get("resets_at")?,
            resets_in: row
                .try_get::<Option<f64>, _>("resets_in")?
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        }))
    }

    /// Thresholds of `org` that were reached, newest first, older than `slice.after`: of all budgets, or of one.
    pub async fn budget_events(
        &self,
        org: OrgId,
        budget: Option<BudgetId>,
        slice: Slice<i64>,
    ) -> Result<Vec<BudgetEvent>, StoreError> {
        let rows = sqlx::query(
            "select e.event_id, e.org_id, e.budget_id, e.threshold, e.credits, e.spent, e.created_at, \
               w.level, w.subject_id, w.period \
             from budget_event e join budget_window w using (org_id, window_id) \
             where e.org_id = $1 and ($2::uuid is null or e.budget_id = $2) and ($3::bigint is null or e.event_id < $3) \
             order by e.event_id desc limit $4",
        )
        .bind(org.as_uuid())
        .bind(budget.map(BudgetId::as_uuid))
        .bind(slice.after)
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// Logs and counts the events that no gateway has reported yet.
    pub async fn tell_budget_events(&self) -> Result<(), StoreError> {
        let rows = sqlx::query(
            "with told as ( \
               update budget_event e set told = true where e.event_id in ( \
                 select event_id from budget_event where not told order by event_id limit $1 for update skip locked) \
               returning e.event_id, e.org_id, e.window_id, e.budget_id, e.threshold, e.credits, e.spent, e.created_at) \
             select t.*, w.level, w.subject_id, w.period from told t join budget_window w using (org_id, window_id) \
             order by t.event_id",
        )
        .bind(SOME)
        .fetch_all(self.pool())
        .await?;
        for event in rows.iter().map(event) {
            let event = event?;
            metered::threshold_reached(event.threshold);
            tracing::warn!(
                org = %event.org_id, budget = %event.budget_id, of = event.level.as_str(), subject = event.subject_id,
                period = event.period.as_str(), threshold = event.threshold, limit = %event.limit, spent = %event.spent,
                "a budget has reached a threshold"
            );
        }
        Ok(())
    }
}
