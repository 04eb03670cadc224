//! Putting books in force: now, later, or again.

use serde::Serialize;
use sqlx::FromRow;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::pricing::{BookVersion, PriceBook};
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;
use crate::store::directory::tenancy::Slice;
use crate::store::prices::edit::{lock, seen};
use crate::store::prices::no_book;

/// One line of the history: a book came into force, or will, or was to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Activation {
    /// Later lines have higher ones.
    pub activation_id: i64,
    /// Which book.
    #[schema(value_type = i32)]
    pub version: BookVersion,
    /// From when on.
    #[serde(with = "time::serde::rfc3339")]
    pub effective_from: OffsetDateTime,
    /// Who said so.
    pub actor: String,
    /// When that was.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it was taken back, before it began.
    #[serde(with = "time::serde::rfc3339::option")]
    pub withdrawn_at: Option<OffsetDateTime>,
}

impl FromRow<'_, PgRow> for Activation {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            activation_id: row.try_get("activation_id")?,
            version: BookVersion::new(row.try_get("version")?),
            effective_from: row.try_get("effective_from")?,
            actor: row.try_get("actor")?,
            created_at: row.try_get("created_at")?,
            withdrawn_at: row.try_get("withdrawn_at")?,
        })
    }
}

impl Database {
    /// Puts a book in force from `at` on, or from now, whatever its revision.
    pub async fn activate_book(
        &self,
        version: BookVersion,
        at: Option<OffsetDateTime>,
    ) -> Result<(), LedgerError> {
        self.put_in_force(version, at, None).await
    }

    /// Puts a book in force from `at` on, or from now. Every gateway follows: at that instant, or within a second.
    ///
    /// Only a book that was never in force can be scheduled: replicas of before know one instant a book.
    pub async fn put_in_force(
        &self,
        version: BookVersion,
        at: Option<OffsetDateTime>,
        revision: Option<i32>,
    ) -> Result<(), LedgerError> {
        let mut change = self.change().await?;
        lock(&mut change).await?;
        let ahead = seen(&mut change, version, revision).await?;
        let (in_the_past, at_once_with, empty, in_force): (bool, Option<i32>, bool, Option<i32>) =
            sqlx::query_as(
                "select coalesce($2 <= clock_timestamp(), false), \
                 (select version from price_activation \
                  where withdrawn_at is null and effective_from = $2 and version <> $1 limit 1), \
                 not exists (select from price where version = $1), \
                 (select version from price_activation where withdrawn_at is null and effective_from <= clock_timestamp() \
                  order by effective_from desc, activation_id desc limit 1)",
            )
            .bind(version.get())
            .bind(at)
            .fetch_one(&mut *change)
            .bounded()
            .await?;
        if in_the_past {
            return Err(LedgerError::Invalid(
                "that instant has passed: name one that is to come, or none for now".into(),
            ));
        }
        if empty {
            return Err(LedgerError::Conflict(format!("price book {version} has no prices")));
        }
        if let Some(other) = at_once_with {
            return Err(LedgerError::Conflict(format!(
                "price book {other} comes into force at that very instant"
            )));
        }
        if at.is_some() && ahead == Some(false) {
            return Err(LedgerError::Conflict(format!(
                "price book {version} was in force: put it in force at once, or schedule a copy"
            )));
        }
        if at.is_none() && in_force == Some(version.get()) {
            return Ok(());
        }
        sqlx::query(
            "update price_book set effective_from = coalesce($2, clock_timestamp()), revision = revision + 1 \
             where version = $1",
        )
        .bind(version.get())
        .bind(at)
        .execute(&mut *change)
        .bounded()
        .await?;
        change.commit().await
    }

    /// Takes a schedule back while its instant is to come: the book is a draft again.
    pub async fn unschedule_book(
        &self,
        version: BookVersion,
        revision: Option<i32>,
    ) -> Result<(), LedgerError> {
        let mut change = self.change().await?;
        lock(&mut change).await?;
        if seen(&mut change, version, revision).await? != Some(true) {
            return Err(LedgerError::Conflict(format!("price book {version} is not scheduled")));
        }
        let done = sqlx::query(
            "update price_book set effective_from = null, revision = revision + 1 \
             where version = $1 and effective_from > clock_timestamp()",
        )
        .bind(version.get())
        .execute(&mut *change)
        .bounded()
        .await?;
        if done.rows_affected() == 0 {
            return Err(LedgerError::Conflict(format!("price book {version} has just come into force")));
        }
        change.commit().await
    }

    /// Puts the book in force again that was in force before the present one. `from`: the one that is to go; none:
    /// whichever it is. The answer is the one that came back.
    pub async fn roll_back_book(&self, from: Option<BookVersion>) -> Result<BookVersion, LedgerError> {
        let mut change = self.change().await?;
        lock(&mut change).await?;
        let row: Option<(i32, Option<i32>)> = sqlx::query_as(
            "select c.version, (select a.version from price_activation a \
               where a.withdrawn_at is null and a.version <> c.version \
                 and (a.effective_from, a.activation_id) < (c.effective_from, c.activation_id) \
               order by a.effective_from desc, a.activation_id desc limit 1) \
             from price_activation c where c.withdrawn_at is null and c.effective_from <= clock_timestamp() \
             order by c.effective_from desc, c.activation_id desc limit 1",
        )
        .fetch_optional(&mut *change)
        .bounded()
        .await?;
        let current = row.map(|(current, _)| BookVersion::new(current));
        if from.is_some() && from != current {
            let now = current.map_or("none".to_owned(), |version| version.to_string());
            return Err(LedgerError::Conflict(format!("the price book in force is {now} now")));
        }
        let Some((_, Some(former))) = row else {
            return Err(LedgerError::Conflict(
                "no other price book was in force before the present one".into(),
            ));
        };
        sqlx::query(
            "update price_book set effective_from = clock_timestamp(), revision = revision + 1 where version = $1",
        )
        .bind(former)
        .execute(&mut *change)
        .bounded()
        .await?;
        change.commit().await?;
        Ok(BookVersion::new(former))
    }

    /// What came into force and when, newest line first.
    pub async fn activations(&self, slice: Slice<i64>) -> Result<Vec<Activation>, LedgerError> {
        let lines = sqlx::query_as(
            "select activation_id, version, effective_from, actor, created_at, withdrawn_at from price_activation \
             where activation_id < coalesce($1, 9223372036854775807) order by activation_id desc limit $2",
        )
        .bind(slice.after)
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .bounded()
        .await?;
        Ok(lines)
    }

    /// Fails if there is no such book.
    pub async fn expect_book(&self, version: BookVersion) -> Result<PriceBook, LedgerError> {
        self.book(version).await?.ok_or_else(|| no_book(version))
    }
}
