//! Price factors: what an organisation pays of the list price for a time. A factor that has begun can only be ended;
//! one that is over stays as it is.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::FromRow;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::credits::PriceFactor;
use crate::ids::{FactorId, OrgId};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;
use crate::store::db::words::words;

/// A price factor and the time in which it is valid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PriceFactorInfo {
    pub factor_id: FactorId,
    pub org_id: OrgId,
    /// The part of the list price that the organisation pays, in basis points.
    pub factor_bp: PriceFactor,
    #[serde(with = "time::serde::rfc3339")]
    pub valid_from: OffsetDateTime,
    /// The instant before which the factor ends; null: it is valid until somebody ends it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub valid_until: Option<OffsetDateTime>,
    pub reason: String,
    /// Whether the factor is in force now.
    pub active: bool,
    pub version: i32,
}

words! {
    enum FactorOutcome in "create_price_factor()" {
        Created = "created",
        UnknownOrg = "unknown_org",
        BeginsInThePast = "begins_in_the_past",
        EndsBeforeItBegins = "ends_before_it_begins",
        Overlaps = "overlaps",
    }
}

words! {
    enum EndOutcome in "end_price_factor()" {
        Ended = "ended",
        Unknown = "unknown",
        Stale = "stale",
        InThePast = "in_the_past",
        EndsEarlier = "ends_earlier",
    }
}

impl FromRow<'_, PgRow> for PriceFactorInfo {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let factor = PriceFactor::new(row.try_get("factor_bp")?)
            .ok_or_else(|| sqlx::Error::Decode("factor_bp out of range".into()))?;
        Ok(Self {
            factor_id: FactorId::from_uuid(row.try_get("factor_id")?),
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            factor_bp: factor,
            valid_from: row.try_get("valid_from")?,
            valid_until: row.try_get("valid_until")?,
            reason: row.try_get("reason")?,
            active: row.try_get("active")?,
            version: row.try_get("version")?,
        })
    }
}

impl Database {
    /// The price factors of `org`, newest first.
    pub async fn price_factors(
        &self,
        org: OrgId,
        slice: Slice<FactorId>,
    ) -> Result<Vec<PriceFactorInfo>, StoreError> {
        let factors = sqlx::query_as(
            "select f.factor_id, f.org_id, f.factor_bp, f.valid_from, f.valid_until, f.reason, f.version, valid_from <= clock_timestamp() and coalesce(valid_until > clock_timestamp(), true) as active \
             from price_factor f where org_id = $1 and ($2::uuid is null or factor_id < $2) \
             order by factor_id desc limit $3",
        )
        .bind(org.as_uuid())
        .bind(slice.after.map(FactorId::as_uuid))
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        Ok(factors)
    }

    /// The factor in force for each of `orgs` that has one now.
    pub async fn price_factors_in_force(
        &self,
        orgs: &[OrgId],
    ) -> Result<HashMap<OrgId, PriceFactor>, StoreError> {
        let orgs: Vec<uuid::Uuid> = orgs.iter().map(|org| org.as_uuid()).collect();
        let rows: Vec<(uuid::Uuid, i32)> = sqlx::query_as(
            "select distinct on (org_id) org_id, factor_bp from price_factor \
             where org_id = any($1) and valid_from <= clock_timestamp() \
               and coalesce(valid_until > clock_timestamp(), true) \
             order by org_id, valid_from desc",
        )
        .bind(orgs)
        .fetch_all(self.pool())
        .await?;
        let factor = |(org, factor)| {
            let factor =
                PriceFactor::new(factor).ok_or(StoreError::Corrupt("price_factor.factor_bp".into()))?;
            Ok((OrgId::from_uuid(org), factor))
        };
        rows.into_iter().map(factor).collect()
    }

    /// One price factor of `org`.
    pub async fn price_factor(
        &self,
        org: OrgId,
        factor: FactorId,
    ) -> Result<Option<PriceFactorInfo>, StoreError> {
        let found = sqlx::query_as(
            "select f.factor_id, f.org_id, f.factor_bp, f.valid_from, f.valid_until, f.reason, f.version, valid_from <= clock_timestamp() and coalesce(valid_until > clock_timestamp(), true) as active \
             from price_factor f where org_id = $1 and factor_id = $2",
        )
        .bind(org.as_uuid())
        .bind(factor.as_uuid())
        .fetch_optional(self.pool())
        .await?;
        Ok(found)
    }
}

impl Acting {
    /// Gives `org` a factor from `from` on (`None`: now) until just before `until` (`None`: until it is ended). At all
    /// other times the factor stored with the organisation counts.
    pub async fn create_price_factor(
        &self,
        org: OrgId,
        factor: PriceFactor,
        from: Option<OffsetDateTime>,
        until: Option<OffsetDateTime>,
        reason: &str,
    ) -> Result<FactorId, StoreError> {
        let reason = reason.trim();
        if !(1..=500).contains(&reason.chars().count()) {
            return Err(StoreError::Invalid("a reason has 1 to 500 characters".into()));
        }
        let id = FactorId::generate();
        let (outcome, other): (FactorOutcome, Option<uuid::Uuid>) =
            sqlx::query_as("select outcome, other from create_price_factor($1, $2, $3, $4, $5, $6)")
                .bind(org.as_uuid())
                .bind(id.as_uuid())
                .bind(factor.basis_points())
                .bind(from)
                .bind(until)
                .bind(reason)
                .fetch_one(self.change())
                .await?;
        Err(match (outcome, other) {
            (FactorOutcome::Created, _) => return Ok(id),
            (FactorOutcome::UnknownOrg, _) => StoreError::NotFound(format!("there is no organisation {org}")),
            (FactorOutcome::BeginsInThePast, _) => {
                StoreError::Invalid("a factor cannot begin in the past: omit valid_from to begin now".into())
            }
            (FactorOutcome::EndsBeforeItBegins, _) => {
                StoreError::Invalid("valid_until must be after valid_from".into())
            }
            (FactorOutcome::Overlaps, Some(other)) => {
                let other = FactorId::from_uuid(other);
                StoreError::Conflict(format!("{other} is valid at that time: end it first"))
            }
            (FactorOutcome::Overlaps, None) => {
                StoreError::Corrupt("create_price_factor() returned no factor".into())
            }
        })
    }

    /// Ends a factor at `at`, or now. A factor that would end before it begins is removed: only the audit log still
    /// shows it.
    pub async fn end_price_factor(
        &self,
        org: OrgId,
        factor: FactorId,
        at: Option<OffsetDateTime>,
        version: Option<i32>,
    ) -> Result<(), StoreError> {
        let (outcome, current): (EndOutcome, Option<i32>) =
            sqlx::query_as("select outcome, version from end_price_factor($1, $2, $3, $4)")
                .bind(org.as_uuid())
                .bind(factor.as_uuid())
                .bind(at)
                .bind(version)
                .fetch_one(self.change())
                .await?;
        Err(match (outcome, current) {
            (EndOutcome::Ended, _) => return Ok(()),
            (EndOutcome::Unknown, _) => StoreError::NotFound(format!("{org} has no price factor {factor}")),
            (EndOutcome::Stale, Some(current)) => StoreError::Stale { current },
            (EndOutcome::Stale, None) => StoreError::Corrupt("end_price_factor() returned no version".into()),
            (EndOutcome::InThePast, _) => {
                StoreError::Invalid("a factor cannot end in the past: omit the instant to end it now".into())
            }
            (EndOutcome::EndsEarlier, _) => StoreError::Conflict(format!("{factor} ends earlier than that")),
        })
    }
}
