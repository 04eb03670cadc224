//! Partitions of holds, entries and content by the month of their ids.

use super::database::Database;
use super::error::StoreError;

impl Database {
    /// Makes the partitions of this month and of the next ones where they are missing. Rows of a month without a partition
    /// are in another one until then, and serve from there.
    pub async fn make_partitions(&self) -> Result<(), StoreError> {
        sqlx::query("select make_partitions()").execute(self.pool()).await?;
        Ok(())
    }
}
