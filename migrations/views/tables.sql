-- Rows are estimates of the server's. A table in partitions is one table.
create or replace view reporting.tables as
select class.relname as name, sum(greatest(part.reltuples, 0))::bigint as rows, sum(pg_total_relation_size(part.oid))::bigint as bytes,
       sum(pg_indexes_size(part.oid))::bigint as index_bytes, sum(seen.n_dead_tup)::bigint as dead_rows,
       sum(seen.n_tup_hot_upd)::bigint as hot_updates, sum(seen.n_tup_upd)::bigint as updates, sum(seen.seq_scan)::bigint as scans,
       max(greatest(seen.last_vacuum, seen.last_autovacuum)) as vacuumed_at,
       max(greatest(seen.last_analyze, seen.last_autoanalyze)) as analysed_at
from pg_stat_user_tables seen
join pg_class part on part.oid = seen.relid
join pg_class class on class.oid = coalesce(pg_partition_root(seen.relid), seen.relid)
where seen.schemaname = 'public'
group by class.relname;
