//! Budgets: what a key, a user, a team or an organisation may spend in a day, a week, a month or ever.
//!
//! The one that counts for a subject and a period is its own; else that for every subject of its level in its
//! organisation; else the platform's default for the level. Where there is none of the three there is no limit: the
//! platform has no default until an operator makes one. All that count for a create must allow it.
//!
//! What is spent (open holds and charges) is counted in windows, under the organisation's balance row, and belongs to the
//! window in which the hold was granted, whenever it ends. A budget that is made in the middle of a window finds what was
//! spent in it before (`migrations/functions/budgets/`).

mod edit;

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
use crate::store::db::database::Database;
use crate::store::db::error::LedgerError;
use crate::store::db::words::words;
use crate::store::directory::tenancy::Slice;
use crate::store::ledger::metered;

/// Events told in one look, at most: what is left is found by the next.
const SOME: i64 = 1000;

words! {
    /// Whose spending a budget bounds.
    pub enum BudgetLevel in "budget.level" {
        Key = "key",
        /// A user's, by whatever key or without one.
        User = "user",
        /// A team's: that of its users.
        Team = "team",
        Organisation = "organisation" stored "org",
    }
}

impl BudgetLevel {
    /// The subject of this level that `text` names.
    pub fn subject(self, text: &str) -> Result<BudgetSubject, LedgerError> {
        let id = match self {
            Self::Key => text.parse().map(KeyId::as_uuid),
            Self::User => text.parse().map(UserId::as_uuid),
            Self::Team => text.parse().map(TeamId::as_uuid),
            Self::Organisation => {
                return Err(LedgerError::Invalid("an organisation's budget names no subject".into()));
            }
        };
        id.map(BudgetSubject).map_err(|error| LedgerError::Invalid(error.to_string()))
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

/// A key, a user or a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSubject(Uuid);

words! {
    /// How long a budget's windows are. They begin by the organisation's clock; weeks on Monday.
    pub enum Period in "budget.period" {
        /// One window for ever.
        Total = "total",
        Daily = "daily",
        Weekly = "weekly",
        Monthly = "monthly",
    }
}

/// A budget with what is drawn from it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Budget {
    pub budget_id: BudgetId,
    /// Its organisation; none: the platform's default.
    pub org_id: Option<OrgId>,
    /// Whose spending it bounds.
    pub level: BudgetLevel,
    /// Which key, user or team; none: each of its level that has none of its own.
    pub subject_id: Option<String>,
    pub period: Period,
    /// How much; none: no limit, although a wider default may set one.
    pub credits: Option<Credits>,
    /// How much while it is raised.
    pub raised_to: Option<Credits>,
    /// Until when it is raised; over once that has passed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub raised_until: Option<OffsetDateTime>,
    /// How much may be spent now; none: no limit.
    pub limit: Option<Credits>,
    /// Percent of the limit at which an event is raised, once a window and limit.
    pub thresholds: Vec<i32>,
    /// What charges took in the present window; none: it has one for each subject.
    pub used: Option<Credits>,
    /// What unfinished tasks hold of it.
    pub held: Option<Credits>,
    /// When the present window ends; none: never, or one for each organisation.
    #[serde(with = "time::serde::rfc3339::option")]
    pub resets_at: Option<OffsetDateTime>,
    pub version: i32,
    /// When it was made.
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
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// Which budgets to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct BudgetFilter {
    /// Only those of this level.
    pub level: Option<BudgetLevel>,
    /// Only those of this key, user or team.
    pub subject: Option<BudgetSubject>,
    /// Only those of this period.
    pub period: Option<Period>,
}

/// A budget that counts for a caller.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct CallerBudget {
    /// Whose spending it bounds.
    pub level: BudgetLevel,
    pub period: Period,
    /// How much may be spent; none: no limit.
    pub limit: Option<Credits>,
    pub used: Credits,
    /// What unfinished tasks hold of it.
    pub held: Credits,
    /// When the window ends; none: never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub resets_at: Option<OffsetDateTime>,
}

/// A budget in force: what a refused caller is told.
#[derive(Debug, Clone, Copy)]
pub struct BudgetInForce {
    /// Whose spending it bounds.
    pub level: BudgetLevel,
    pub period: Period,
    /// How much may be spent.
    pub limit: Credits,
    /// When the window ends; none: never.
    pub resets_at: Option<OffsetDateTime>,
    /// How long that is from now on, by the database's clock.
    pub resets_in: Option<Duration>,
}

/// A threshold was reached.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BudgetEvent {
    /// Its place among the events.
    pub event_id: i64,
    pub org_id: OrgId,
    /// The budget that counted; it may have been deleted since.
    pub budget_id: BudgetId,
    /// Whose spending it bounds.
    pub level: BudgetLevel,
    /// Which key, user, team or organisation spent it.
    pub subject_id: String,
    pub period: Period,
    /// Percent of the limit.
    pub threshold: i32,
    pub limit: Credits,
    /// What was held and charged, then.
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

/// Budgets with the present window of those that have but one.
macro_rules! budgets {
    ($rest:literal) => {
        concat!(
            "select b.budget_id, b.org_id, b.level, b.subject_id, b.period, b.credits, b.raised_to, b.raised_until, \
               b.thresholds, b.version, b.created_at, cap_of(b, now()) as cap, \
               case when w.subject_id is not null then coalesce(n.held, 0) end as held, \
               case when w.subject_id is not null then coalesce(n.used, 0) end as used, \
               nullif(window_end(b.period, o.time_zone, now()), 'infinity') as resets_at \
             from budget b left join org o on o.org_id = b.org_id \
             cross join lateral (select case when b.level = 'org' then b.org_id else b.subject_id end) w(subject_id) \
             left join budget_window n on n.org_id = b.org_id and n.level = b.level and n.subject_id = w.subject_id \
               and n.period = b.period and n.starts_at = window_start(b.period, o.time_zone, now()) where ",
            $rest
        )
    };
}

impl Database {
    /// Budgets of `org` (none: the platform's defaults), oldest first.
    pub async fn list_budgets(
        &self,
        org: Option<OrgId>,
        filter: BudgetFilter,
        slice: Slice<BudgetId>,
    ) -> Result<Vec<Budget>, LedgerError> {
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

    pub async fn budget(&self, budget: BudgetId) -> Result<Option<Budget>, LedgerError> {
        let row = sqlx::query_as(budgets!("b.budget_id = $1")).bind(budget.as_uuid());
        Ok(row.fetch_optional(self.pool()).await?)
    }

    /// The budgets that count for a caller, narrowest level first.
    pub async fn budgets_of_caller(
        &self,
        org: OrgId,
        user: UserId,
        key: Option<KeyId>,
    ) -> Result<Vec<CallerBudget>, LedgerError> {
        let rows = sqlx::query(
            "select d.level, d.period, d.cap, coalesce(w.held, 0) as held, coalesce(w.used, 0) as used, \
               nullif(window_end(d.period, o.time_zone, now()), 'infinity') as resets_at \
             from org o, draw_budgets(array[$1], array[1], array[1], array[$2], array[$3], \
               array[(select u.team_id from app_user u where u.user_id = $2)], now()) a, \
             lateral unnest(a.level, a.subject_id, a.period, a.starts_at, a.cap) with ordinality \
               d(level, subject_id, period, starts_at, cap, place) \
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

    /// What `budget` says for `org` now; none if it says nothing any more.
    pub async fn budget_in_force(
        &self,
        org: OrgId,
        budget: BudgetId,
    ) -> Result<Option<BudgetInForce>, LedgerError> {
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

    /// Thresholds of `org` that were reached, newest first, older than `slice.after`; all, or those of one budget.
    pub async fn budget_events(
        &self,
        org: OrgId,
        budget: Option<BudgetId>,
        slice: Slice<i64>,
    ) -> Result<Vec<BudgetEvent>, LedgerError> {
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

    /// Logs and counts the events that no gateway has told yet.
    pub async fn tell_budget_events(&self) -> Result<(), LedgerError> {
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
