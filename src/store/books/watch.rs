//! What alarms watch over all organisations: tasks that do not come to an end, and organisations that cannot pay for one more.

use std::time::Duration;

use crate::store::db::database::Database;
use crate::store::db::error::StoreError;

impl Database {
    /// How many tasks of each backend have been running for longer than `age`. Backends without such a task are left out.
    ///
    /// Reads tasks that go on, never the history.
    pub async fn running_for(&self, age: Duration) -> Result<Vec<(String, i64)>, StoreError> {
        Ok(sqlx::query_as(
            "select o.backend, count(*) from open_task o join hold h on h.org_id = o.org_id and h.hold_id = o.hold_id \
             where o.state = 'RUNNING' and not o.reopened and h.created_at < now() - $1 * interval '1 second' group by o.backend",
        )
        .bind(age.as_secs_f64())
        .fetch_all(self.pool())
        .await?)
    }

    /// How many organisations once had credits, and cannot pay for the cheapest task of `seconds` any more. Those that may
    /// create no task anyway (deleted, suspended) are left out.
    pub async fn out_of_credit(&self, seconds: u8) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar(
            "with book as ( \
               select version from price_activation where withdrawn_at is null and effective_from <= clock_timestamp() \
               order by effective_from desc, activation_id desc limit 1), \
             cheapest as ( \
               select min(case unit when 'fixed' then credits else credits * $1 end)::numeric as credits \
               from price join book using (version)) \
             select count(*) from org o join org_balance b using (org_id) cross join cheapest \
             where o.deleted_at is null and o.status = 'active' and b.granted > 0 \
               and b.available::numeric + b.overdraft < ceil(cheapest.credits * coalesce( \
                 (select f.factor_bp from price_factor f where f.org_id = o.org_id and f.valid_from <= now() \
                    and (f.valid_until is null or f.valid_until > now()) order by f.valid_from desc limit 1), \
                 o.price_factor_bp) / 10000)",
        )
        .bind(i64::from(seconds))
        .fetch_one(self.pool())
        .await?)
    }
}
