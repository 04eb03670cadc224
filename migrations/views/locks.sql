create or replace view reporting.locks as
select lock.mode, lock.locktype as kind, count(*) filter (where lock.granted) as held,
       count(*) filter (where not lock.granted) as waited_for,
       coalesce(max(extract(epoch from clock_timestamp() - lock.waitstart)), 0)::double precision as longest_wait_seconds
from pg_locks lock
where lock.database = (select pg_database.oid from pg_database where pg_database.datname = current_database())
group by 1, 2;
