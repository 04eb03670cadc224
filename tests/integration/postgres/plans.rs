//! A prepared statement whose result has another type than when it was prepared: its connection is of no use any more.

use crate::support::database::{TestDatabase, until};

#[tokio::test]
async fn a_connection_whose_plans_are_outdated_is_replaced() {
    let db = TestDatabase::new().await;
    db.database().providers().await.unwrap();
    // Another type of the wire, but still a text.
    sqlx::raw_sql("alter table identity_provider alter column issuer type varchar(500)")
        .execute(db.pool())
        .await
        .unwrap();
    until("statements are prepared anew", async || db.database().providers().await.is_ok()).await;
}
