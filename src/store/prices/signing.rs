//! The keys that sign quotes. All gateways share them; an operator replaces the newest by a newer one.

use time::OffsetDateTime;

use crate::quote::SigningKey;
use crate::store::db::change::{Acting, Actor};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

impl Database {
    /// The keys whose quotes may still be valid, oldest first. The first call ever creates the first key.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>, StoreError> {
        let keys = self.usable_signing_keys().await?;
        if !keys.is_empty() {
            return Ok(keys);
        }
        let gateway = self.acting(Actor::program("gateway"));
        // If several gateways create the key at the same time, one insert wins and all gateways read that key.
        sqlx::query("insert into signing_key (generation, key) values (1, $1) on conflict do nothing")
            .bind(SigningKey::fresh_secret().as_slice())
            .execute(gateway.change())
            .await?;
        self.usable_signing_keys().await
    }

    async fn usable_signing_keys(&self) -> Result<Vec<SigningKey>, StoreError> {
        let rows: Vec<(i32, OffsetDateTime, Vec<u8>)> = sqlx::query_as(
            "select generation, created_at, key from ( \
               select k.generation, k.created_at, k.key, lead(created_at) over (order by generation) as replaced_at from signing_key k) k \
             where replaced_at is null or replaced_at > clock_timestamp() - interval '1 hour' order by generation",
        )
        .fetch_all(self.pool())
        .await?;
        let key = |(generation, created_at, key): (i32, OffsetDateTime, Vec<u8>)| {
            SigningKey::new(generation, created_at, &key).ok_or(StoreError::Corrupt("signing_key.key".into()))
        };
        rows.into_iter().map(key).collect()
    }
}

impl Acting {
    /// Creates a newer key. Quotes that former keys have signed stay valid until they expire.
    pub async fn rotate_signing_key(&self) -> Result<i32, StoreError> {
        Ok(sqlx::query_scalar("select rotate_signing_key($1)")
            .bind(SigningKey::fresh_secret().as_slice())
            .fetch_one(self.change())
            .await?)
    }
}
