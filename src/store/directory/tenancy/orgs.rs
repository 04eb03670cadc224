//! Organisations: created, listed, changed.

use sqlx::AssertSqlSafe;

use super::*;
use crate::store::budgets::counting::Counting;
use crate::store::credits::balance::COLUMNS as BALANCE;
use crate::store::db::page::Slice;

/// An organisation with its balance.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Org {
    pub org_id: OrgId,
    pub name: String,
    /// Whether the organisation may create tasks.
    pub status: Status,
    /// The time zone by whose clock the organisation's days, weeks and months begin.
    pub time_zone: String,
    /// The part of the list price that the organisation pays, in basis points, unless a price factor with a validity is
    /// in force.
    pub price_factor_bp: PriceFactor,
    /// Creates a minute; null: the gateway's default; 0: no limit.
    pub create_per_minute: Option<i32>,
    /// Other calls a minute; null: the gateway's default; 0: no limit.
    pub status_per_minute: Option<i32>,
    /// The most unfinished tasks; null: the gateway's default; 0: no limit.
    pub max_open_tasks: Option<i32>,
    #[serde(flatten)]
    pub balance: Balance,
    /// Since when creates are stopped because of what the organisation's tasks cost the platform; null: they are not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub stopped_at: Option<OffsetDateTime>,
    pub version: i32,
    /// When the organisation was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the organisation was deleted.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deleted_at: Option<OffsetDateTime>,
}

impl FromRow<'_, PgRow> for Org {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let factor = PriceFactor::new(row.try_get("price_factor_bp")?)
            .ok_or_else(|| sqlx::Error::Decode("price_factor_bp out of range".into()))?;
        Ok(Self {
            org_id: OrgId::from_uuid(row.try_get("org_id")?),
            name: row.try_get("name")?,
            status: row.try_get("status")?,
            time_zone: row.try_get("time_zone")?,
            price_factor_bp: factor,
            create_per_minute: row.try_get("create_per_minute")?,
            status_per_minute: row.try_get("status_per_minute")?,
            max_open_tasks: row.try_get("max_open_tasks")?,
            balance: balance(row)?,
            stopped_at: row.try_get("stopped_at")?,
            version: row.try_get("version")?,
            created_at: row.try_get("created_at")?,
            deleted_at: row.try_get("deleted_at")?,
        })
    }
}

/// An organisation that is to be created.
#[derive(Debug, Clone)]
pub struct NewOrg {
    pub name: String,
    /// The time zone, by its name in the IANA database.
    pub time_zone: String,
}

/// Changes of an organisation; a field that is `None` keeps its value.
#[derive(Debug, Clone, Default)]
pub struct OrgChange {
    pub name: Option<String>,
    /// Whether the organisation may create tasks.
    pub status: Option<Status>,
    /// The time zone, by its name in the IANA database.
    pub time_zone: Option<String>,
    /// Creates a minute; `Some(None)`: the gateway's default.
    pub create_per_minute: Option<Option<i32>>,
    /// Other calls a minute; `Some(None)`: the gateway's default.
    pub status_per_minute: Option<Option<i32>>,
    /// The most unfinished tasks; `Some(None)`: the gateway's default.
    pub max_open_tasks: Option<Option<i32>>,
    /// How many credits below zero new tasks may go.
    pub overdraft: Option<Credits>,
    /// The part of the list price that the organisation pays.
    pub price_factor: Option<PriceFactor>,
}

/// Which organisations to list.
#[derive(Debug, Clone, Default)]
pub struct OrgFilter {
    pub org: Option<OrgId>,
    /// Only the organisation with this name.
    pub name: Option<String>,
    /// Only organisations whose name contains this; capital letters do not matter.
    pub search: Option<String>,
    pub status: Option<Status>,
    /// Only organisations whose creates are stopped because of their exposure.
    pub stopped: bool,
    /// Deleted organisations instead of the others.
    pub deleted: bool,
}

words! {
    enum ChangeOutcome in "change_org()" {
        Changed = "changed",
        Unchanged = "unchanged",
        UnknownTimeZone = "unknown_time_zone",
    }
}

/// The columns that an [`Org`] is read from.
const COLUMNS: &str = "o.org_id, o.name, o.status, o.time_zone, o.price_factor_bp, o.create_per_minute, \
     o.status_per_minute, b.max_open_tasks, b.stopped_at, o.version, o.created_at, o.deleted_at";
const TABLES: &str = "org o join org_balance b using (org_id)";

fn no_org(org: OrgId) -> String {
    format!("there is no organisation {org}")
}

impl Database {
    /// The organisations that match `filter`, oldest first.
    pub async fn list_orgs(&self, filter: &OrgFilter, slice: Slice<OrgId>) -> Result<Vec<Org>, StoreError> {
        Ok(sqlx::query_as(AssertSqlSafe(format!(
            "select {COLUMNS}, {BALANCE} from {TABLES} \
             where ($1::uuid is null or org_id = $1) and ($2::text is null or name = $2) \
               and ($3::text is null or status = $3) and (deleted_at is not null) = $4 \
               and ($5::uuid is null or org_id > $5) and (stopped_at is not null or not $7) \
               and ($8::text is null or strpos(lower(name), lower($8)) > 0) order by org_id limit $6"
        )))
        .bind(filter.org.map(OrgId::as_uuid))
        .bind(&filter.name)
        .bind(filter.status)
        .bind(filter.deleted)
        .bind(slice.after.map(OrgId::as_uuid))
        .bind(i64::from(slice.limit))
        .bind(filter.stopped)
        .bind(&filter.search)
        .fetch_all(self.pool())
        .await?)
    }

    pub async fn org(&self, org: OrgId) -> Result<Option<Org>, StoreError> {
        let row = sqlx::query_as(AssertSqlSafe(format!(
            "select {COLUMNS}, {BALANCE} from {TABLES} where org_id = $1"
        )));
        Ok(row.bind(org.as_uuid()).fetch_optional(self.pool()).await?)
    }

    pub(super) async fn missing_org(&self, org: OrgId) -> Result<StoreError, StoreError> {
        let current = sqlx::query_scalar("select version from org where org_id = $1 and deleted_at is null")
            .bind(org.as_uuid())
            .fetch_optional(self.pool())
            .await?;
        Ok(unchanged(current, || no_org(org)))
    }
}

fn unknown_zone(zone: &str) -> StoreError {
    StoreError::Invalid(format!("there is no time zone '{zone}': give one such as Europe/Berlin"))
}

impl Acting {
    /// Creates an organisation with an empty balance.
    pub async fn add_org(&self, new: &NewOrg) -> Result<OrgId, StoreError> {
        let org = OrgId::generate();
        let made = sqlx::query(
            // Most organisations are in UTC, and a look at the list of time zones reads hundreds of files.
            "with zone as (select where $3 = 'UTC' union all select from pg_timezone_names where name = $3 limit 1), \
             made as (insert into org (org_id, name, time_zone) select $1, $2, $3 from zone returning org_id) \
             insert into org_balance (org_id) select org_id from made",
        )
        .bind(org.as_uuid())
        .bind(&new.name)
        .bind(&new.time_zone)
        .execute(self.change())
        .await
        .map_err(|error| taken(error, || format!("an organisation named '{}' exists already", new.name)))?;
        if made.rows_affected() == 0 {
            return Err(unknown_zone(&new.time_zone));
        }
        Ok(org)
    }

    /// Changes an organisation, if its version is still `version`. Every gateway follows within a second.
    pub async fn update_org(
        &self,
        org: OrgId,
        new: OrgChange,
        version: Option<i32>,
    ) -> Result<(), StoreError> {
        let outcome: ChangeOutcome =
            sqlx::query_scalar("select change_org($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)")
                .bind(org.as_uuid())
                .bind(version)
                .bind(&new.name)
                .bind(new.status)
                .bind(&new.time_zone)
                .bind(new.create_per_minute.is_some())
                .bind(new.create_per_minute.flatten())
                .bind(new.status_per_minute.is_some())
                .bind(new.status_per_minute.flatten())
                .bind(new.max_open_tasks.is_some())
                .bind(new.max_open_tasks.flatten())
                .bind(new.overdraft.map(Credits::get))
                .bind(new.price_factor.map(PriceFactor::basis_points))
                .fetch_one(self.change())
                .await
                .map_err(|error| taken(error, || "an organisation of that name exists already".into()))?;
        match outcome {
            ChangeOutcome::Changed => {
                if new.time_zone.is_some() {
                    // Other windows are open now: what was spent in them is counted.
                    self.await_count(Counting::OfOrg(org)).await;
                }
                Ok(())
            }
            ChangeOutcome::Unchanged => Err(self.missing_org(org).await?),
            ChangeOutcome::UnknownTimeZone => Err(unknown_zone(new.time_zone.as_deref().unwrap_or_default())),
        }
    }
}
