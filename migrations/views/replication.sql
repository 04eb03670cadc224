create or replace view reporting.replication as
select standby.standbys, standby.synchronous, standby.lag_seconds, pg_is_in_recovery() as is_standby,
       (select count(*) from pg_replication_slots) as slots,
       (select coalesce(max(pg_wal_lsn_diff(
                   case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                   slot.restart_lsn)), 0)
        from pg_replication_slots slot) as kept_bytes
from reporting.standbys_of_owner() standby;
