//! The keys that sign quotes: one for all gateways, replaced by a newer one when an operator says so.

use time::OffsetDateTime;

use crate::quote::SigningKey;
use crate::store::db::database::{Bounded, Database};
use crate::store::db::error::LedgerError;

impl Database {
    /// The keys whose quotes may still bind, oldest first. The first gateway that asks makes one.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>, LedgerError> {
        let keys = self.usable_signing_keys().await?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        let mut change = self.change().await?;
        // Of several at once one wins; all read what it has made.
        sqlx::query("insert into signing_key (generation, key) values (1, $1) on conflict do nothing")
            .bind(SigningKey::fresh_secret().as_slice())
            .execute(&mut *change)
            .bounded()
            .await?;
        change.commit().await?;
        self.usable_signing_keys().await
    }

    async fn usable_signing_keys(&self) -> Result<Vec<SigningKey>, LedgerError> {
        let rows: Vec<(i32, OffsetDateTime, Vec<u8>)> = sqlx::query_as(
            "select generation, created_at, key from ( \
               select generation, created_at, key, lead(created_at) over (order by generation) as replaced_at from signing_key) k \
             where replaced_at is null or replaced_at > clock_timestamp() - interval '1 hour' order by generation",
        )
        .fetch_all(self.pool())
        .bounded()
        .await?;
        let key = |(generation, created_at, key): (i32, OffsetDateTime, Vec<u8>)| {
            SigningKey::new(generation, created_at, &key)
                .ok_or(LedgerError::Corrupt("signing_key.key".into()))
        };
        rows.into_iter().map(key).collect()
    }

    /// Makes a newer key. What the former ones signed binds until it expires.
    pub async fn rotate_signing_key(&self) -> Result<i32, LedgerError> {
        let mut change = self.change().await?;
        crate::store::prices::edit::lock(&mut change).await?;
        let generation = sqlx::query_scalar(
            "insert into signing_key (generation, key) select coalesce(max(generation), 0) + 1, $1 from signing_key \
             returning generation",
        )
        .bind(SigningKey::fresh_secret().as_slice())
        .fetch_one(&mut *change)
        .bounded()
        .await?;
        change.commit().await?;
        Ok(generation)
    }
}
