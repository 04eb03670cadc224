//! A history: what was booked becomes older than it is.

use sqlx::AssertSqlSafe;

use super::database::TestDatabase;

/// Past the triggers, as nothing of ours does.
pub async fn by_hand(db: &TestDatabase, statement: &str) {
    let sql = format!("begin; set local session_replication_role = replica; {statement}; commit");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
}

/// Makes all that was booked so many days older, in partitions of their months.
pub async fn aged(db: &TestDatabase, days: u16) {
    let parts = "select make_partition(of_table.name, booked.created_at - $1 * interval '1 day') \
        from unnest(array['hold', 'entry', 'content', 'label']) of_table(name) \
        cross join (select distinct date_trunc('day', created_at) as created_at from entry \
                    union select distinct date_trunc('day', created_at) from hold) booked";
    sqlx::query(parts).bind(i32::from(days)).execute(db.pool()).await.unwrap();
    db.database().make_partitions().await.unwrap();
    let ids: String = [
        ("correction", "hold_id"),
        ("correction", "entry_id"),
        ("hold", "hold_id"),
        ("label", "hold_id"),
        ("vendor_task", "hold_id"),
        ("unpaid_task", "hold_id"),
        ("drifted_task", "hold_id"),
        ("platform_loss", "hold_id"),
        ("idempotency", "hold_id"),
        ("credit_lot", "entry_id"),
        ("credit_lot_event", "entry_id"),
        ("credit_event", "entry_id"),
    ]
    .map(|(table, column)| format!("update {table} set {column} = pg_temp.older({column}); "))
    .concat();
    by_hand(
        db,
        &format!(
            "create or replace function pg_temp.older(id uuid) returns uuid language sql as $$ \
               select overlay(id::text placing left(uuid_v7(to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint \
                 / 1000.0) - interval '{days} days')::text, 13) from 1 for 13)::uuid $$; {ids} \
             update entry set entry_id = pg_temp.older(entry_id), hold_id = pg_temp.older(hold_id); \
             update audit_log set target_id = pg_temp.older(target_id::uuid)::text, \
               after = after || jsonb_build_object('entry_id', pg_temp.older(target_id::uuid)) where target_kind = 'entry'; \
             update hold set created_at = created_at - interval '{days} days'; \
             update entry set created_at = created_at - interval '{days} days'; \
             update idempotency set created_at = created_at - interval '{days} days'; \
             update usage_day set day = day - {days}; \
             delete from total_place; delete from entry_total; delete from usage_total; delete from usage_member; \
             delete from task_place; delete from price_total; delete from drift_total; \
             update hold set seal = hold_seal(org_id, hold_id, user_id, key_id, team_id, amount, list_price, factor_bp, price_book, \
               balance_after, overdraft, windows, budget_after, task_type, backend, account, owner, fingerprint, idem_key); \
             update entry set seal = entry_seal(org_id, entry_id, kind, amount, hold_id, seq, overrun, user_id, key_id, team_id, \
               task_type, reason, external_ref, related_entry, actor, created_at, place, balance_after)"
        ),
    )
    .await;
}
