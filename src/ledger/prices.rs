//! Price books: versions, effective from an instant.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;

use super::{Bounded, Database, LedgerError};
use crate::credits::Credits;
use crate::pricing::{BookVersion, PriceBook, Tariff};
use crate::task::is_video_edit;

/// A book as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct BookInfo {
    /// Its version.
    pub version: BookVersion,
    /// What people call it.
    pub name: String,
    /// From when on it is in force; none: a draft.
    #[serde(with = "time::serde::rfc3339::option")]
    pub effective_from: Option<OffsetDateTime>,
    /// Whether it is in force now.
    pub active: bool,
}

type PriceRow = (String, String, i64, Option<i64>);

fn tariff(unit: &str, credits: i64, with_audio: Option<i64>) -> Option<Tariff> {
    match unit {
        "fixed" => Some(Tariff::Fixed { credits: Credits::new(credits) }),
        "second" => Some(Tariff::Second {
            credits: Credits::new(credits),
            credits_with_audio: with_audio.map(Credits::new),
        }),
        _ => None,
    }
}

impl Database {
    /// All books, newest first.
    pub async fn books(&self) -> Result<Vec<BookInfo>, LedgerError> {
        let active = self.active_book_version().await?;
        let rows: Vec<(i32, String, Option<OffsetDateTime>)> =
            sqlx::query_as("select version, name, effective_from from price_book order by version desc")
                .fetch_all(self.pool())
                .bounded()
                .await?;
        Ok(rows
            .into_iter()
            .map(|(version, name, effective_from)| {
                let version = BookVersion::new(version);
                BookInfo { version, name, effective_from, active: active == Some(version) }
            })
            .collect())
    }

    /// The version in force at the database's present instant.
    pub async fn active_book_version(&self) -> Result<Option<BookVersion>, LedgerError> {
        let version: Option<i32> = sqlx::query_scalar(
            "select version from price_book where effective_from <= now() order by effective_from desc, version desc limit 1",
        )
        .fetch_optional(self.pool()).bounded()
        .await?;
        Ok(version.map(BookVersion::new))
    }

    /// One book with its prices.
    pub async fn book(&self, version: BookVersion) -> Result<Option<PriceBook>, LedgerError> {
        let name: Option<String> = sqlx::query_scalar("select name from price_book where version = $1")
            .bind(version.get())
            .fetch_optional(self.pool())
            .bounded()
            .await?;
        let Some(name) = name else { return Ok(None) };
        let rows: Vec<PriceRow> = sqlx::query_as(
            "select task_type, unit, credits, credits_with_audio from price where version = $1",
        )
        .bind(version.get())
        .fetch_all(self.pool())
        .bounded()
        .await?;
        let mut prices: BTreeMap<Arc<str>, Tariff> = BTreeMap::new();
        for (task_type, unit, credits, with_audio) in rows {
            let tariff = tariff(&unit, credits, with_audio).ok_or(LedgerError::Corrupt("price.unit"))?;
            prices.insert(task_type.into(), tariff);
        }
        Ok(Some(PriceBook { version, name, prices }))
    }

    /// Adds a draft. Prices must be positive, and what edits a video must have a fixed one.
    pub async fn import_book(
        &self,
        name: &str,
        prices: &BTreeMap<String, Tariff>,
    ) -> Result<BookVersion, LedgerError> {
        if prices.is_empty() {
            return Err(LedgerError::Invalid("a price book needs at least one price".into()));
        }
        let (mut types, mut units, mut plain, mut with_sound) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (task_type, tariff) in prices {
            let (unit, credits, with_audio) = match *tariff {
                Tariff::Fixed { credits } => ("fixed", credits, None),
                Tariff::Second { .. } if is_video_edit(task_type) => {
                    return Err(LedgerError::Invalid(format!(
                        "{task_type}: what edits a video has its length, so its unit must be 'fixed'"
                    )));
                }
                Tariff::Second { credits, credits_with_audio } => ("second", credits, credits_with_audio),
            };
            if [Some(credits), with_audio]
                .into_iter()
                .flatten()
                .any(|price| price <= Credits::ZERO || price.get() > 1_000_000_000)
            {
                return Err(LedgerError::Invalid(format!(
                    "{task_type}: a price must be from 1 to 1,000,000,000 credits"
                )));
            }
            types.push(task_type.as_str());
            units.push(unit);
            plain.push(credits.get());
            with_sound.push(with_audio.map(Credits::get));
        }
        let version: i32 = sqlx::query_scalar(
            "with book as (insert into price_book (name) values ($1) returning version), \
             prices as (insert into price (version, task_type, unit, credits, credits_with_audio) \
               select book.version, p.* from book, unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) p) \
             select version from book",
        )
        .bind(name)
        .bind(types)
        .bind(units)
        .bind(plain)
        .bind(with_sound)
        .fetch_one(self.pool()).bounded()
        .await?;
        Ok(BookVersion::new(version))
    }

    /// Puts a book in force from `at` on, or from now. Every gateway follows within a second.
    pub async fn activate_book(
        &self,
        version: BookVersion,
        at: Option<OffsetDateTime>,
    ) -> Result<(), LedgerError> {
        let done =
            sqlx::query("update price_book set effective_from = coalesce($2, now()) where version = $1")
                .bind(version.get())
                .bind(at)
                .execute(self.pool())
                .bounded()
                .await?;
        if done.rows_affected() == 0 {
            return Err(LedgerError::Invalid(format!("there is no price book {version}")));
        }
        Ok(())
    }
}
