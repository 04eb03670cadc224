//! Price books. Only a draft can be edited: a book that is scheduled, or was ever in force, stays as it is. Which book
//! is in force follows from the table of activations, to which rows are only added.

mod edit;
mod factors;
mod schedule;
mod signing;
mod what_if;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;
use sqlx::FromRow;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::credits::{Credits, PriceFactor};
use crate::ids::OrgId;
use crate::pricing::{BookVersion, FactorSpan, PriceBook, PriceList, Tariff};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;
use crate::store::db::words::words;
pub use crate::store::prices::factors::PriceFactorInfo;
pub use crate::store::prices::schedule::Activation;
pub use crate::store::prices::what_if::{OrgOutcome, TypeOutcome, WhatIf};

words! {
    /// The state of a price book.
    pub enum BookState in "the state of a price book" {
        /// It prices nothing and can be edited.
        Draft = "draft",
        /// It comes into force at a future instant.
        Scheduled = "scheduled",
        /// It prices the tasks that are created now.
        InForce = "in_force",
        /// It was in force earlier.
        Former = "former",
    }
}

words! {
    /// The unit that a price is for.
    pub enum PriceUnit in "price.unit" {
        /// The price is for each second of the video.
        Second = "second",
        /// The price is for the task, however long its video is.
        Fixed = "fixed",
    }
}

/// A price book without its prices.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BookInfo {
    #[schema(value_type = i32)]
    pub version: BookVersion,
    /// The name of the book, for people.
    pub name: String,
    pub state: BookState,
    /// When the book last came into force, or will; null: it is a draft.
    #[serde(with = "time::serde::rfc3339::option")]
    pub effective_from: Option<OffsetDateTime>,
    /// Whether the book is in force now.
    pub active: bool,
    pub revision: i32,
    /// When the book was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

impl FromRow<'_, PgRow> for BookInfo {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let state: BookState = row.try_get("state")?;
        Ok(Self {
            version: BookVersion::new(row.try_get("version")?),
            name: row.try_get("name")?,
            state,
            effective_from: row.try_get("effective_from")?,
            active: state == BookState::InForce,
            revision: row.try_get("revision")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

fn tariff(unit: PriceUnit, credits: i64, with_audio: Option<i64>) -> Tariff {
    let credits = Credits::new(credits);
    match unit {
        PriceUnit::Fixed => Tariff::Fixed { credits },
        PriceUnit::Second => Tariff::Second { credits, credits_with_audio: with_audio.map(Credits::new) },
    }
}

fn no_book(version: BookVersion) -> StoreError {
    StoreError::NotFound(format!("there is no price book {version}"))
}

impl Database {
    /// All price books, newest first.
    pub async fn books(&self) -> Result<Vec<BookInfo>, StoreError> {
        self.list_books(None, Slice { after: None, limit: u16::MAX }).await
    }

    /// Price books, newest first: all, or those in one state.
    pub async fn list_books(
        &self,
        state: Option<BookState>,
        slice: Slice<i32>,
    ) -> Result<Vec<BookInfo>, StoreError> {
        self.book_infos(None, state, slice).await
    }

    /// A price book without its prices.
    pub async fn book_info(&self, version: BookVersion) -> Result<Option<BookInfo>, StoreError> {
        Ok(self.book_infos(Some(version), None, Slice { after: None, limit: 1 }).await?.pop())
    }

    async fn book_infos(
        &self,
        version: Option<BookVersion>,
        state: Option<BookState>,
        slice: Slice<i32>,
    ) -> Result<Vec<BookInfo>, StoreError> {
        let books = sqlx::query_as(
            "select version, name, effective_from, revision, created_at, state from ( \
               select b.version, b.name, b.effective_from, b.revision, b.created_at, \
               case when b.effective_from is null then 'draft' when b.effective_from > clock_timestamp() then 'scheduled' \
                 when b.version = f.version then 'in_force' else 'former' end as state \
               from price_book b left join lateral ( \
                 select a.version from price_activation a \
                 where a.withdrawn_at is null and a.effective_from <= clock_timestamp() \
                 order by a.effective_from desc, a.activation_id desc limit 1) f on true) b \
             where ($1::integer is null or version = $1) and ($2::text is null or state = $2) \
               and ($3::integer is null or version < $3) order by version desc limit $4",
        )
        .bind(version.map(BookVersion::get))
        .bind(state)
        .bind(slice.after)
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        Ok(books)
    }

    /// The version of the book that is in force now, by the database's clock.
    pub async fn active_book_version(&self) -> Result<Option<BookVersion>, StoreError> {
        let version: Option<i32> = sqlx::query_scalar(
            "select version from price_activation where withdrawn_at is null and effective_from <= clock_timestamp() \
             order by effective_from desc, activation_id desc limit 1",
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(version.map(BookVersion::new))
    }

    /// A price book with its prices.
    pub async fn book(&self, version: BookVersion) -> Result<Option<PriceBook>, StoreError> {
        Ok(self.books_with_prices(&[version.get()]).await?.remove(&version))
    }

    async fn books_with_prices(
        &self,
        versions: &[i32],
    ) -> Result<BTreeMap<BookVersion, PriceBook>, StoreError> {
        type Priced = (i32, String, Option<String>, Option<PriceUnit>, Option<i64>, Option<i64>);
        let rows: Vec<Priced> = sqlx::query_as(
            "select b.version, b.name, p.task_type, p.unit, p.credits, p.credits_with_audio \
             from price_book b left join price p on p.version = b.version where b.version = any($1)",
        )
        .bind(versions)
        .fetch_all(self.pool())
        .await?;
        let mut books = BTreeMap::new();
        for (version, name, task_type, unit, credits, with_audio) in rows {
            let version = BookVersion::new(version);
            let book =
                books.entry(version).or_insert_with(|| PriceBook { version, name, prices: BTreeMap::new() });
            if let (Some(task_type), Some(unit), Some(credits)) = (task_type, unit, credits) {
                book.prices.insert(task_type.into(), tariff(unit, credits, with_audio));
            }
        }
        Ok(books)
    }

    /// The books and factors in force now, those of the last hour (a quote may still name them), and those that are
    /// scheduled.
    pub async fn price_list(&self) -> Result<PriceList, StoreError> {
        let starts: Vec<(OffsetDateTime, i32)> = sqlx::query_as(
            "select effective_from, version from price_activation where withdrawn_at is null and effective_from >= coalesce( \
               (select max(effective_from) from price_activation \
                where withdrawn_at is null and effective_from <= clock_timestamp() - interval '1 hour'), '-infinity') \
             order by effective_from, activation_id",
        )
        .fetch_all(self.pool())
        .await?;
        let versions: Vec<i32> = starts.iter().map(|(_, version)| *version).collect();
        let books = self.books_with_prices(&versions).await?;
        let rows: Vec<(Uuid, i32, OffsetDateTime, Option<OffsetDateTime>)> = sqlx::query_as(
            "select org_id, factor_bp, valid_from, valid_until from price_factor \
             where valid_until is null or valid_until > clock_timestamp() - interval '1 hour'",
        )
        .fetch_all(self.pool())
        .await?;
        let mut factors: HashMap<OrgId, Vec<FactorSpan>> = HashMap::new();
        for (org, factor, from, until) in rows {
            let factor =
                PriceFactor::new(factor).ok_or(StoreError::Corrupt("price_factor.factor_bp".into()))?;
            factors.entry(OrgId::from_uuid(org)).or_default().push(FactorSpan { factor, from, until });
        }
        let rows: Vec<(Uuid, i32, OffsetDateTime)> = sqlx::query_as(
            "select org_id, factor_bp, replaced_at from former_price_factor \
             where replaced_at > clock_timestamp() - interval '1 hour' order by former_id",
        )
        .fetch_all(self.pool())
        .await?;
        let mut former: HashMap<OrgId, Vec<(OffsetDateTime, PriceFactor)>> = HashMap::new();
        for (org, factor, replaced_at) in rows {
            let corrupt = || StoreError::Corrupt("former_price_factor.factor_bp".into());
            let factor = PriceFactor::new(factor).ok_or_else(corrupt)?;
            former.entry(OrgId::from_uuid(org)).or_default().push((replaced_at, factor));
        }
        Ok(PriceList {
            books: books.into_iter().map(|(version, book)| (version, Arc::new(book))).collect(),
            starts: starts.into_iter().map(|(from, version)| (from, BookVersion::new(version))).collect(),
            factors,
            former,
        })
    }

    /// The present instant by the database's clock.
    pub async fn clock(&self) -> Result<OffsetDateTime, StoreError> {
        Ok(sqlx::query_scalar("select clock_timestamp()").fetch_one(self.pool()).await?)
    }
}
