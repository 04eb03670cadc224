//! Putting price books in force: now, at a future instant, or again.

use serde::Serialize;
use sqlx::FromRow;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::pricing::{BookVersion, PriceBook};
use crate::store::db::change::Acting;
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::page::Slice;
use crate::store::db::words::words;
use crate::store::prices::no_book;

/// One activation of a price book: it came into force, will come into force, or was withdrawn before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Activation {
    /// Activations that were made later have greater ids.
    pub activation_id: i64,
    #[schema(value_type = i32)]
    pub version: BookVersion,
    #[serde(with = "time::serde::rfc3339")]
    pub effective_from: OffsetDateTime,
    pub actor: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the activation was withdrawn, before it came into force; null: it was not.
    #[serde(with = "time::serde::rfc3339::option")]
    pub withdrawn_at: Option<OffsetDateTime>,
}

words! {
    enum ForceOutcome in "put_book_in_force()" {
        Done = "done",
        Unknown = "unknown",
        Stale = "stale",
        InThePast = "in_the_past",
        Empty = "empty",
        Taken = "taken",
        WasInForce = "was_in_force",
    }
}

words! {
    enum UnscheduleOutcome in "unschedule_book()" {
        Done = "done",
        Unknown = "unknown",
        Stale = "stale",
        NotScheduled = "not_scheduled",
        InForce = "in_force",
    }
}

words! {
    enum RollBackOutcome in "roll_back_book()" {
        Done = "done",
        Other = "other",
        NoneBefore = "none_before",
    }
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
    /// All activations of price books, newest first.
    pub async fn activations(&self, slice: Slice<i64>) -> Result<Vec<Activation>, StoreError> {
        let lines = sqlx::query_as(
            "select activation_id, version, effective_from, actor, created_at, withdrawn_at from price_activation where activation_id < coalesce($1, 9223372036854775807) \
             order by activation_id desc limit $2",
        )
        .bind(slice.after)
        .bind(i64::from(slice.limit))
        .fetch_all(self.pool())
        .await?;
        Ok(lines)
    }

    /// Returns a price book with its prices; `NotFound` if there is none of this version.
    pub async fn expect_book(&self, version: BookVersion) -> Result<PriceBook, StoreError> {
        self.book(version).await?.ok_or_else(|| no_book(version))
    }
}

impl Acting {
    /// Puts a book in force from `at` on, or from now. Every gateway follows: at that instant, or, if it is now, within
    /// a second.
    ///
    /// Only a book that was never in force can be scheduled.
    pub async fn put_in_force(
        &self,
        version: BookVersion,
        at: Option<OffsetDateTime>,
        revision: Option<i32>,
    ) -> Result<(), StoreError> {
        let (outcome, figure): (ForceOutcome, Option<i32>) =
            sqlx::query_as("select outcome, figure from put_book_in_force($1, $2, $3)")
                .bind(version.get())
                .bind(revision)
                .bind(at)
                .fetch_one(self.change())
                .await?;
        Err(match (outcome, figure) {
            (ForceOutcome::Done, _) => return Ok(()),
            (ForceOutcome::Unknown, _) => no_book(version),
            (ForceOutcome::Stale, Some(current)) => StoreError::Stale { current },
            (ForceOutcome::InThePast, _) => StoreError::Invalid(
                "this instant has passed: give a future instant, or none to put the book in force now".into(),
            ),
            (ForceOutcome::Empty, _) => StoreError::Conflict(format!("price book {version} has no prices")),
            (ForceOutcome::Taken, Some(other)) => {
                StoreError::Conflict(format!("price book {other} comes into force at that very instant"))
            }
            (ForceOutcome::WasInForce, _) => StoreError::Conflict(format!(
                "price book {version} was in force: put it in force now, or schedule a copy"
            )),
            (ForceOutcome::Stale | ForceOutcome::Taken, None) => {
                StoreError::Corrupt("put_book_in_force() returned no figure".into())
            }
        })
    }

    /// Withdraws a scheduled activation that is still in the future: the book is a draft again.
    pub async fn unschedule_book(
        &self,
        version: BookVersion,
        revision: Option<i32>,
    ) -> Result<(), StoreError> {
        let (outcome, current): (UnscheduleOutcome, Option<i32>) =
            sqlx::query_as("select outcome, revision from unschedule_book($1, $2)")
                .bind(version.get())
                .bind(revision)
                .fetch_one(self.change())
                .await?;
        Err(match (outcome, current) {
            (UnscheduleOutcome::Done, _) => return Ok(()),
            (UnscheduleOutcome::Unknown, _) => no_book(version),
            (UnscheduleOutcome::Stale, Some(current)) => StoreError::Stale { current },
            (UnscheduleOutcome::Stale, None) => {
                StoreError::Corrupt("unschedule_book() returned no revision".into())
            }
            (UnscheduleOutcome::NotScheduled, _) => {
                StoreError::Conflict(format!("price book {version} is not scheduled"))
            }
            (UnscheduleOutcome::InForce, _) => {
                StoreError::Conflict(format!("price book {version} has just come into force"))
            }
        })
    }

    /// Puts the book in force that was in force before the present one, and returns its version. `from`: the book that
    /// must be in force now; `None`: any.
    pub async fn roll_back_book(&self, from: Option<BookVersion>) -> Result<BookVersion, StoreError> {
        let (outcome, version): (RollBackOutcome, Option<i32>) =
            sqlx::query_as("select outcome, version from roll_back_book($1)")
                .bind(from.map(BookVersion::get))
                .fetch_one(self.change())
                .await?;
        match (outcome, version) {
            (RollBackOutcome::Done, Some(version)) => Ok(BookVersion::new(version)),
            (RollBackOutcome::Done, None) => {
                Err(StoreError::Corrupt("roll_back_book() returned no version".into()))
            }
            (RollBackOutcome::Other, now) => {
                let now = now.map_or("none".to_owned(), |version| version.to_string());
                Err(StoreError::Conflict(format!("the price book in force is {now} now")))
            }
            (RollBackOutcome::NoneBefore, _) => {
                Err(StoreError::Conflict("no other price book was in force before the present one".into()))
            }
        }
    }
}
