//! Creating and editing drafts of price books.

use std::collections::BTreeMap;

use crate::credits::Credits;
use crate::order::is_video_edit;
use crate::pricing::{BookVersion, Tariff};
use crate::store::db::change::Acting;
use crate::store::db::error::StoreError;
use crate::store::db::words::words;
use crate::store::prices::{PriceUnit, no_book};

/// Prices as arrays, one for each column of the table.
#[derive(Debug, Default)]
struct PriceColumns<'a> {
    types: Vec<&'a str>,
    units: Vec<PriceUnit>,
    credits: Vec<i64>,
    with_audio: Vec<Option<i64>>,
}

impl<'a> PriceColumns<'a> {
    /// Fails unless all prices are positive and every type that edits a video has a fixed price.
    fn of(prices: impl IntoIterator<Item = (&'a str, Tariff)>) -> Result<Self, StoreError> {
        let mut columns = Self::default();
        for (task_type, tariff) in prices {
            let refuse = |why: &str| Err(StoreError::Invalid(format!("{task_type}: {why}")));
            // A task type is written in paths, log lines and tables of the command line.
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
            if !(1..=100).contains(&task_type.len()) || !task_type.bytes().all(plain) {
                return Err(StoreError::Invalid(
                    "a task type is 1 to 100 lower-case letters, digits, '-', '_' or '.'".into(),
                ));
            }
            let (unit, credits, with_audio) = match tariff {
                Tariff::Fixed { credits } => (PriceUnit::Fixed, credits, None),
                Tariff::Second { .. } if is_video_edit(task_type) => {
                    return refuse("what edits a video has its length, so its unit must be 'fixed'");
                }
                Tariff::Second { credits, credits_with_audio } => {
                    (PriceUnit::Second, credits, credits_with_audio)
                }
            };
            let possible = |price: Credits| (1..=1_000_000_000).contains(&price.get());
            if ![Some(credits), with_audio].into_iter().flatten().all(possible) {
                return refuse("a price must be from 1 to 1,000,000,000 credits");
            }
            columns.types.push(task_type);
            columns.units.push(unit);
            columns.credits.push(credits.get());
            columns.with_audio.push(with_audio.map(Credits::get));
        }
        Ok(columns)
    }
}

fn named(name: &str) -> Result<&str, StoreError> {
    let name = name.trim();
    if (1..=200).contains(&name.chars().count()) {
        Ok(name)
    } else {
        Err(StoreError::Invalid("a price book's name has 1 to 200 characters".into()))
    }
}

words! {
    /// What `lock_book` says of a book that is to be edited.
    enum LockedBook in "lock_book()", "delete_book()" {
        /// The book can be edited.
        Draft = "draft",
        /// The book comes into force at a future instant.
        Scheduled = "scheduled",
        /// The book is in force, or was.
        Effective = "effective",
        Unknown = "unknown",
        /// The book was changed since its editor saw it.
        Stale = "stale",
    }
}

fn editable(version: BookVersion, state: LockedBook, revision: Option<i32>) -> Result<(), StoreError> {
    match (state, revision) {
        (LockedBook::Draft, _) => Ok(()),
        (LockedBook::Unknown, _) => Err(no_book(version)),
        (LockedBook::Stale, Some(current)) => Err(StoreError::Stale { current }),
        (LockedBook::Stale, None) => Err(StoreError::Corrupt("lock_book() returned no revision".into())),
        (LockedBook::Scheduled, _) => Err(StoreError::Conflict(format!(
            "price book {version} is scheduled: unschedule it before you edit it, or edit a copy"
        ))),
        (LockedBook::Effective, _) => Err(StoreError::Conflict(format!(
            "price book {version} was in force, and stays as it is: edit a copy"
        ))),
    }
}

/// An edit of the draft `$1` that its editor saw at revision `$2`. The statement between the parts changes rows `from
/// book`, which has a row only if the book is a draft. The answer is the book's state, the revision before, the
/// revision after, and the number of rows changed.
macro_rules! edit {
    ($edit:literal) => {
        concat!(
            "with locked as materialized (select state, revision from lock_book($1, $2)), \
             book as (select from locked where state = 'draft'), edited as (",
            $edit,
            " returning 1), revised as (update price_book set revision = price_book.revision + 1 from book \
             where version = $1 and exists (select from edited) returning price_book.revision) \
             select state, revision, (select revision from revised), (select count(*) from edited) from locked"
        )
    };
}

type Edited = (LockedBook, Option<i32>, Option<i32>, i64);

fn edited(version: BookVersion, (state, current, revision, rows): Edited) -> Result<Option<i32>, StoreError> {
    editable(version, state, current)?;
    Ok(revision.filter(|_| rows > 0))
}

impl Acting {
    /// Creates a draft: the prices of `copy_of`, replaced and extended by `prices`. It may be empty.
    pub async fn create_book(
        &self,
        name: &str,
        copy_of: Option<BookVersion>,
        prices: &BTreeMap<String, Tariff>,
    ) -> Result<BookVersion, StoreError> {
        let name = named(name)?;
        let columns = PriceColumns::of(prices.iter().map(|(name, tariff)| (name.as_str(), *tariff)))?;
        let version: Option<i32> = sqlx::query_scalar("select create_book($1, $2, $3, $4, $5, $6)")
            .bind(name)
            .bind(copy_of.map(BookVersion::get))
            .bind(columns.types)
            .bind(columns.units)
            .bind(columns.credits)
            .bind(columns.with_audio)
            .fetch_one(self.change())
            .await?;
        match (version, copy_of) {
            (Some(version), _) => Ok(BookVersion::new(version)),
            (None, Some(original)) => Err(no_book(original)),
            (None, None) => Err(StoreError::Corrupt("answer of create_book".into())),
        }
    }

    /// Sets a price of a draft and returns the new revision. `revision`: the one that the editor saw; `None`: any.
    pub async fn set_price(
        &self,
        version: BookVersion,
        task_type: &str,
        tariff: Tariff,
        revision: Option<i32>,
    ) -> Result<i32, StoreError> {
        let columns = PriceColumns::of([(task_type, tariff)])?;
        let done: Edited = sqlx::query_as(edit!(
            "insert into price (version, task_type, unit, credits, credits_with_audio) \
             select $1, p.task_type, p.unit, p.credits, p.credits_with_audio from book, \
               unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[]) p(task_type, unit, credits, credits_with_audio) \
             on conflict (version, task_type) do update set unit = excluded.unit, credits = excluded.credits, \
             credits_with_audio = excluded.credits_with_audio"
        ))
        .bind(version.get())
        .bind(revision)
        .bind(columns.types)
        .bind(columns.units)
        .bind(columns.credits)
        .bind(columns.with_audio)
        .fetch_one(self.change())
        .await?;
        edited(version, done)?.ok_or(StoreError::Corrupt("a price that was not set".into()))
    }

    /// Removes a task type from a draft: while the book is in force, creates of that type are refused.
    pub async fn remove_price(
        &self,
        version: BookVersion,
        task_type: &str,
        revision: Option<i32>,
    ) -> Result<i32, StoreError> {
        let done: Edited =
            sqlx::query_as(edit!("delete from price using book where version = $1 and task_type = $3"))
                .bind(version.get())
                .bind(revision)
                .bind(task_type)
                .fetch_one(self.change())
                .await?;
        edited(version, done)?.ok_or_else(|| {
            StoreError::NotFound(format!("price book {version} has no price of '{task_type}'"))
        })
    }

    pub async fn rename_book(
        &self,
        version: BookVersion,
        name: &str,
        revision: Option<i32>,
    ) -> Result<i32, StoreError> {
        let name = named(name)?;
        let (state, current, revision): (LockedBook, Option<i32>, Option<i32>) = sqlx::query_as(
            "with locked as materialized (select state, revision from lock_book($1, $2)), \
             renamed as (update price_book set name = $3, revision = price_book.revision + 1 from locked \
               where version = $1 and state = 'draft' returning price_book.revision) \
             select state, revision, (select revision from renamed) from locked",
        )
        .bind(version.get())
        .bind(revision)
        .bind(name)
        .fetch_one(self.change())
        .await?;
        editable(version, state, current)?;
        revision.ok_or(StoreError::Corrupt("a price book that was not renamed".into()))
    }

    /// Deletes a draft. Its version is never used again.
    pub async fn delete_book(&self, version: BookVersion, revision: Option<i32>) -> Result<(), StoreError> {
        let (state, current): (LockedBook, Option<i32>) =
            sqlx::query_as("select state, revision from delete_book($1, $2)")
                .bind(version.get())
                .bind(revision)
                .fetch_one(self.change())
                .await?;
        editable(version, state, current)
    }
}
