-- Rows are estimates of the server's.
create or replace view reporting.tables as
select seen.relname as name, greatest(class.reltuples, 0)::bigint as rows, pg_total_relation_size(class.oid) as bytes,
       pg_indexes_size(class.oid) as index_bytes, seen.n_dead_tup as dead_rows, seen.n_tup_hot_upd as hot_updates,
       seen.n_tup_upd as updates, seen.seq_scan as scans,
       greatest(seen.last_vacuum, seen.last_autovacuum) as vacuumed_at,
       greatest(seen.last_analyze, seen.last_autoanalyze) as analysed_at
from pg_stat_user_tables seen
join pg_class class on class.oid = seen.relid
where seen.schemaname = 'public';
