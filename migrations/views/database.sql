create or replace view reporting.database as
select database.datname as name, pg_database_size(database.oid) as bytes, seen.numbackends as connections,
       current_setting('max_connections')::integer as max_connections, seen.xact_commit as commits,
       seen.xact_rollback as rollbacks, seen.deadlocks, seen.conflicts, seen.temp_bytes, seen.blks_hit, seen.blks_read,
       case when seen.blks_hit + seen.blks_read > 0 then seen.blks_hit / (seen.blks_hit + seen.blks_read)::numeric end
           as hit_share,
       age(database.datfrozenxid) as transaction_ids_used, pg_postmaster_start_time() as started_at,
       current_setting('server_version') as server_version
from pg_database database
join pg_stat_database seen on seen.datid = database.oid
where database.datname = current_database();
