//! What members ask for: a temporary raise of a budget that counts for them. An admin of the organisation, or an operator,
//! grants or declines it.

use super::*;
use crate::ids::BudgetRequestId;
use crate::store::budgets::counting::Counting;
use crate::store::db::change::Acting;

words! {
    /// What has become of a request.
    pub enum RequestState in "budget_request.state" {
        Open = "open",
        Granted = "granted",
        Declined = "declined",
    }
}

words! {
    /// Why a request is not taken.
    pub enum RequestVerdict in "request_budget()" {
        Made = "made",
        /// The organisation has no such user.
        Unknown = "unknown",
        /// The member is in no team, or calls with no key.
        NoSubject = "subject",
        /// The raise would end within the hour.
        TooSoon = "soon",
        /// No budget with a limit counts there.
        NoLimit = "no_limit",
        /// The limit is not above the one that is in force.
        Below = "below",
        /// The member has as many open requests as it may have.
        TooMany = "many",
        /// The organisation has as many open requests as it may have.
        Full = "full",
    }
}

words! {
    /// What comes of granting a request.
    pub enum GrantVerdict in "grant_budget_request()" {
        Granted = "granted",
        /// The organisation has no such request.
        Unknown = "unknown",
        /// It was declined before.
        Declined = "declined",
        /// Only operators raise the budget of a whole organisation.
        Operators = "operators",
        /// The raise would have ended already.
        Late = "late",
        /// No budget with a limit counts there any more.
        NoLimit = "no_limit",
        /// The limit is not above the budget's own.
        Below = "below",
    }
}

/// A member's request for a temporary raise of a budget.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BudgetRequest {
    pub request_id: BudgetRequestId,
    pub org_id: OrgId,
    /// The member that asks.
    pub user_id: UserId,
    /// The level of the budget: whose spending it limits.
    pub level: BudgetLevel,
    /// The id of the key, user, team or organisation whose budget it is.
    pub subject_id: String,
    pub period: Period,
    /// The limit that is asked for, in credits.
    pub credits: Credits,
    /// When the raise shall end.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// Why the member asks.
    pub reason: String,
    pub state: RequestState,
    /// The limit that was granted, in credits; null: none was.
    pub granted: Option<Credits>,
    /// Until when it was granted; null: it was not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub granted_until: Option<OffsetDateTime>,
    /// When the request was answered; null: it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    pub answered_at: Option<OffsetDateTime>,
    /// What was answered, in words.
    pub answer: Option<String>,
    /// When the member asked.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A request that is to be made.
#[derive(Debug, Clone)]
pub struct NewBudgetRequest {
    /// The member that asks.
    pub user: UserId,
    /// The key that the member calls with; `None`: it signed in otherwise.
    pub key: Option<KeyId>,
    pub level: BudgetLevel,
    pub period: Period,
    /// The limit that is asked for.
    pub credits: Credits,
    pub until: OffsetDateTime,
    pub reason: String,
}

/// Which requests to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestFilter {
    /// Only requests of this member.
    pub user: Option<UserId>,
    pub state: Option<RequestState>,
}

/// How a request is granted; what is `None` is as the member asked.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    pub credits: Option<Credits>,
    pub until: Option<OffsetDateTime>,
    /// Whether the budget of the whole organisation may be raised.
    pub by_operator: bool,
    pub answer: Option<String>,
}

macro_rules! requests {
    ($rest:literal) => {
        concat!(
            "select request_id, org_id, user_id, level, subject_id, period, credits, until, reason, state, granted, granted_until, \
             answered_at, answer, created_at from budget_request ",
            $rest
        )
    };
}

fn request(row: &PgRow) -> Result<BudgetRequest, StoreError> {
    let level: BudgetLevel = row.try_get("level")?;
    Ok(BudgetRequest {
        request_id: BudgetRequestId::from_uuid(row.try_get("request_id")?),
        org_id: OrgId::from_uuid(row.try_get("org_id")?),
        user_id: UserId::from_uuid(row.try_get("user_id")?),
        level,
        subject_id: level.id(row.try_get("subject_id")?),
        period: row.try_get("period")?,
        credits: Credits::new(row.try_get("credits")?),
        until: row.try_get("until")?,
        reason: row.try_get("reason")?,
        state: row.try_get("state")?,
        granted: credits(row, "granted")?,
        granted_until: row.try_get("granted_until")?,
        answered_at: row.try_get("answered_at")?,
        answer: row.try_get("answer")?,
        created_at: row.try_get("created_at")?,
    })
}

fn no_such(id: BudgetRequestId) -> StoreError {
    StoreError::NotFound(format!("there is no {id}"))
}

impl Database {
    /// Requests of an organisation, newest first.
    pub async fn budget_requests(
        &self,
        org: OrgId,
        filter: RequestFilter,
        slice: Slice<BudgetRequestId>,
    ) -> Result<Vec<BudgetRequest>, StoreError> {
        let rows = sqlx::query(requests!(
            "where org_id = $1 and ($2::uuid is null or user_id = $2) and ($3::text is null or state = $3) \
             and ($4::uuid is null or request_id < $4) order by request_id desc limit $5"
        ))
        .bind(org.as_uuid())
        .bind(filter.user.map(UserId::as_uuid))
        .bind(filter.state)
        .bind(slice.after.map(BudgetRequestId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(request).collect()
    }

    /// A request of an organisation.
    pub async fn budget_request(
        &self,
        org: OrgId,
        id: BudgetRequestId,
    ) -> Result<Option<BudgetRequest>, StoreError> {
        let row = sqlx::query(requests!("where request_id = $2 and org_id = $1"))
            .bind(org.as_uuid())
            .bind(id.as_uuid());
        row.fetch_optional(self.pool()).await?.as_ref().map(request).transpose()
    }
}

impl Acting {
    /// Asks for a temporary raise of a budget that counts for a member.
    pub async fn request_budget(
        &self,
        org: OrgId,
        new: &NewBudgetRequest,
    ) -> Result<(RequestVerdict, BudgetRequestId), StoreError> {
        let id = BudgetRequestId::generate();
        let verdict = sqlx::query_scalar("select request_budget($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(id.as_uuid())
            .bind(org.as_uuid())
            .bind(new.user.as_uuid())
            .bind(new.key.map(KeyId::as_uuid))
            .bind(new.level)
            .bind(new.period)
            .bind(new.credits.get())
            .bind(new.until)
            .bind(&new.reason)
            .fetch_one(self.change())
            .await?;
        Ok((verdict, id))
    }

    /// Raises the budget that a request asks for and marks the request, in one. It is granted once: a repetition changes
    /// nothing.
    pub async fn grant_budget_request(
        &self,
        org: OrgId,
        id: BudgetRequestId,
        grant: &Grant,
    ) -> Result<GrantVerdict, StoreError> {
        let row = sqlx::query("select verdict, raised from grant_budget_request($1, $2, $3, $4, $5, $6, $7)")
            .bind(org.as_uuid())
            .bind(id.as_uuid())
            .bind(grant.credits.map(Credits::get))
            .bind(grant.until)
            .bind(grant.by_operator)
            .bind(BudgetId::generate().as_uuid())
            .bind(&grant.answer)
            .fetch_one(self.change())
            .await?;
        if let Some(raised) = row.try_get::<Option<Uuid>, _>("raised")? {
            self.await_count(Counting::OfBudget(BudgetId::from_uuid(raised))).await;
        }
        Ok(row.try_get("verdict")?)
    }

    /// Declines a request. A repetition changes nothing.
    pub async fn decline_budget_request(
        &self,
        org: OrgId,
        id: BudgetRequestId,
        answer: Option<&str>,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "update budget_request set state = 'declined', answered_at = clock_timestamp(), answer = $3 \
             where org_id = $1 and request_id = $2 and state = 'open'",
        )
        .bind(org.as_uuid())
        .bind(id.as_uuid())
        .bind(answer)
        .execute(self.change())
        .await?;
        if done.rows_affected() > 0 {
            return Ok(());
        }
        match self.budget_request(org, id).await?.ok_or_else(|| no_such(id))?.state {
            RequestState::Granted => Err(StoreError::Conflict(format!(
                "{id} was granted: end the raise of the budget to take it back"
            ))),
            RequestState::Declined | RequestState::Open => Ok(()),
        }
    }
}
