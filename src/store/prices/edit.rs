//! Making and editing drafts.

use std::collections::BTreeMap;

use crate::credits::Credits;
use crate::order::is_video_edit;
use crate::pricing::{BookVersion, Tariff};
use crate::store::db::change::Change;
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;
use crate::store::prices::{PriceUnit, no_book};

/// Prices as the columns of the table.
#[derive(Debug, Default)]
struct Columns<'a> {
    types: Vec<&'a str>,
    units: Vec<PriceUnit>,
    credits: Vec<i64>,
    with_audio: Vec<Option<i64>>,
}

impl<'a> Columns<'a> {
    /// Prices must be positive, and what edits a video must have a fixed one.
    fn of(prices: impl IntoIterator<Item = (&'a str, Tariff)>) -> Result<Self, LedgerError> {
        let mut columns = Self::default();
        for (task_type, tariff) in prices {
            let refuse = |why: &str| Err(LedgerError::Invalid(format!("{task_type}: {why}")));
            // It ends up in a path, in a log line, in a table of the console.
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            if !(1..=100).contains(&task_type.len()) || !task_type.bytes().all(plain) {
                return Err(LedgerError::Invalid(
                    "a task type is 1 to 100 letters, digits, '-', '_' or '.'".into(),
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

    async fn put(self, version: BookVersion, change: &mut Change) -> Result<(), LedgerError> {
        sqlx::query(
            "insert into price (version, task_type, unit, credits, credits_with_audio) \
             select $1, p.task_type, p.unit, p.credits, p.with_audio \
             from unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[]) p(task_type, unit, credits, with_audio) \
             on conflict (version, task_type) do update set unit = excluded.unit, credits = excluded.credits, \
             credits_with_audio = excluded.credits_with_audio",
        )
        .bind(version.get())
        .bind(self.types)
        .bind(self.units)
        .bind(self.credits)
        .bind(self.with_audio)
        .execute(&mut **change)
        .bounded()
        .await?;
        Ok(())
    }
}

fn named(name: &str) -> Result<&str, LedgerError> {
    let name = name.trim();
    if (1..=200).contains(&name.chars().count()) {
        Ok(name)
    } else {
        Err(LedgerError::Invalid("a price book's name has 1 to 200 characters".into()))
    }
}

/// Changes of prices come one after the other: each begins here.
pub(super) async fn lock(change: &mut Change) -> Result<(), LedgerError> {
    sqlx::query("select from epoch where name = 'prices' for no key update")
        .execute(&mut **change)
        .bounded()
        .await?;
    Ok(())
}

/// Fails unless the book is there and as the editor has seen it; the answer is its date, and whether that is ahead.
pub(super) async fn seen(
    change: &mut Change,
    version: BookVersion,
    revision: Option<i32>,
) -> Result<Option<bool>, LedgerError> {
    let row: Option<(i32, Option<bool>)> = sqlx::query_as(
        "select revision, effective_from > clock_timestamp() from price_book where version = $1 for update",
    )
    .bind(version.get())
    .fetch_optional(&mut **change)
    .bounded()
    .await?;
    let (current, ahead) = row.ok_or_else(|| no_book(version))?;
    match revision {
        Some(seen) if seen != current => Err(LedgerError::Stale { current }),
        _ => Ok(ahead),
    }
}

impl Database {
    /// Adds a draft: what `copy_of` has, with `prices` put over it. It may still be empty.
    pub async fn create_book(
        &self,
        name: &str,
        copy_of: Option<BookVersion>,
        prices: &BTreeMap<String, Tariff>,
    ) -> Result<BookVersion, LedgerError> {
        let name = named(name)?;
        let columns = Columns::of(prices.iter().map(|(name, tariff)| (name.as_str(), *tariff)))?;
        let mut change = self.change().await?;
        lock(&mut change).await?;
        if let Some(original) = copy_of {
            seen(&mut change, original, None).await?;
        }
        let version: i32 = sqlx::query_scalar("insert into price_book (name) values ($1) returning version")
            .bind(name)
            .fetch_one(&mut *change)
            .bounded()
            .await?;
        sqlx::query(
            "insert into price (version, task_type, unit, credits, credits_with_audio) \
             select $1, task_type, unit, credits, credits_with_audio from price where version = $2",
        )
        .bind(version)
        .bind(copy_of.map(BookVersion::get))
        .execute(&mut *change)
        .bounded()
        .await?;
        let version = BookVersion::new(version);
        columns.put(version, &mut change).await?;
        change.commit().await?;
        Ok(version)
    }

    /// Adds a draft that has prices.
    pub async fn import_book(
        &self,
        name: &str,
        prices: &BTreeMap<String, Tariff>,
    ) -> Result<BookVersion, LedgerError> {
        if prices.is_empty() {
            return Err(LedgerError::Invalid("a price book needs at least one price".into()));
        }
        self.create_book(name, None, prices).await
    }

    /// Sets a price of a draft. `revision`: what the editor has seen; none: whatever it is. The answer is the new one.
    pub async fn set_price(
        &self,
        version: BookVersion,
        task_type: &str,
        tariff: Tariff,
        revision: Option<i32>,
    ) -> Result<i32, LedgerError> {
        let columns = Columns::of([(task_type, tariff)])?;
        let mut change = self.edit(version, revision).await?;
        columns.put(version, &mut change).await?;
        revise(change, version).await
    }

    /// Takes a type out of a draft: creates of that type will be refused.
    pub async fn remove_price(
        &self,
        version: BookVersion,
        task_type: &str,
        revision: Option<i32>,
    ) -> Result<i32, LedgerError> {
        let mut change = self.edit(version, revision).await?;
        let removed = sqlx::query("delete from price where version = $1 and task_type = $2")
            .bind(version.get())
            .bind(task_type)
            .execute(&mut *change)
            .bounded()
            .await?;
        if removed.rows_affected() == 0 {
            return Err(LedgerError::NotFound(format!("price book {version} has no price of '{task_type}'")));
        }
        revise(change, version).await
    }

    /// Renames a draft.
    pub async fn rename_book(
        &self,
        version: BookVersion,
        name: &str,
        revision: Option<i32>,
    ) -> Result<i32, LedgerError> {
        let name = named(name)?;
        let mut change = self.edit(version, revision).await?;
        sqlx::query("update price_book set name = $2 where version = $1")
            .bind(version.get())
            .bind(name)
            .execute(&mut *change)
            .bounded()
            .await?;
        revise(change, version).await
    }

    /// Removes a draft. Its number is not used again.
    pub async fn delete_book(&self, version: BookVersion, revision: Option<i32>) -> Result<(), LedgerError> {
        let mut change = self.edit(version, revision).await?;
        for statement in ["delete from price where version = $1", "delete from price_book where version = $1"]
        {
            sqlx::query(statement).bind(version.get()).execute(&mut *change).bounded().await?;
        }
        change.commit().await
    }

    /// Begins an edit of a draft.
    async fn edit(&self, version: BookVersion, revision: Option<i32>) -> Result<Change, LedgerError> {
        let mut change = self.change().await?;
        lock(&mut change).await?;
        match seen(&mut change, version, revision).await? {
            None => Ok(change),
            Some(true) => Err(LedgerError::Conflict(format!(
                "price book {version} is scheduled: unschedule it before you edit it, or edit a copy"
            ))),
            Some(false) => Err(LedgerError::Conflict(format!(
                "price book {version} was in force, and stays as it is: edit a copy"
            ))),
        }
    }
}

async fn revise(mut change: Change, version: BookVersion) -> Result<i32, LedgerError> {
    let revision = sqlx::query_scalar(
        "update price_book set revision = revision + 1 where version = $1 returning revision",
    )
    .bind(version.get())
    .fetch_one(&mut *change)
    .bounded()
    .await?;
    change.commit().await?;
    Ok(revision)
}
