//! Exposure: what the tasks of an organisation cost the platform, or may have cost it, and the stop that follows if that
//! reaches the limit of a day (`limits.max_exposure_per_day`). The steps of holds count it and set the stop (function
//! `count_exposure`); it is read and lifted here.

use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::credits::Credits;
use crate::ids::OrgId;
use crate::store::credits::post::check_reason;
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;

/// What an organisation's tasks cost the platform, or may have cost it, since the count began: each UTC day begins a new
/// one, and so does an operator who lets a stopped organisation go on. Credits of the vendor, before the price factor.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq, ToSchema)]
pub struct Exposure {
    /// When the count began. That of a stopped organisation goes on over midnight.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// What was booked as the platform's loss, for sure or possibly.
    pub lost: Credits,
    /// List prices of tasks that went in doubt. A doubt that ends by evidence is taken out again.
    pub in_doubt: Credits,
    /// What tasks consumed above their list prices.
    pub overrun: Credits,
    /// Creates are stopped when the three together reach this; null: no limit.
    pub limit: Option<Credits>,
    /// Since when creates are refused; null: they are not. Only an operator lifts it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub stopped_at: Option<OffsetDateTime>,
}

/// The columns that an [`Exposure`] is read from, of `b`.
pub(super) const COLUMNS: &str = "exposure_start(b.exposure_since, b.stopped_at, now()) as exposure_since, \
     b.exposure_since >= exposure_start(b.exposure_since, b.stopped_at, now()) as exposure_counts, \
     b.exposure_lost, b.exposure_in_doubt, b.exposure_overrun, b.stopped_at";

/// Reads [`COLUMNS`]. `limit`: 0 is no limit.
pub(super) fn exposure(row: &PgRow, limit: Credits) -> Result<Exposure, sqlx::Error> {
    let counts = row.try_get::<Option<bool>, _>("exposure_counts")? == Some(true);
    let figure = |column| {
        let counted = row.try_get::<Option<i64>, _>(column)?;
        Ok::<_, sqlx::Error>(Credits::new(counted.filter(|_| counts).unwrap_or(0)))
    };
    Ok(Exposure {
        since: row.try_get("exposure_since")?,
        lost: figure("exposure_lost")?,
        in_doubt: figure("exposure_in_doubt")?,
        overrun: figure("exposure_overrun")?,
        limit: (limit > Credits::ZERO).then_some(limit),
        stopped_at: row.try_get("stopped_at")?,
    })
}

impl Database {
    /// How many organisations' creates are stopped because of their exposure.
    pub async fn stopped_organisations(&self) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "select count(*) from org_balance b join org o using (org_id) \
             where b.stopped_at is not null and o.deleted_at is null",
        )
        .fetch_one(self.pool())
        .await?)
    }
}

words! {
    enum ResumeOutcome in "resume_creates()" {
        Resumed = "resumed",
        UnknownOrg = "unknown_org",
    }
}

impl Acting {
    /// Lets the creates of `org` go on if they are stopped because of its exposure, and counts from 0 again. `reason` is
    /// kept in the audit log.
    pub async fn resume_creates(&self, org: OrgId, reason: &str) -> Result<(), StoreError> {
        check_reason(reason)?;
        let outcome: ResumeOutcome = sqlx::query_scalar("select outcome from resume_creates($1, $2)")
            .bind(org.as_uuid())
            .bind(reason)
            .fetch_one(self.change())
            .await?;
        match outcome {
            ResumeOutcome::Resumed => Ok(()),
            ResumeOutcome::UnknownOrg => Err(StoreError::NotFound(format!("there is no organisation {org}"))),
        }
    }
}
