-- Standbys of the server, for reporting.replication; with the rights of the owner, as reporting.sessions_of_owner.
create or replace function reporting.standbys_of_owner()
returns table (standbys bigint, synchronous bigint, lag_seconds double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select count(*), count(*) filter (where standby.sync_state in ('sync', 'quorum')),
           coalesce(max(extract(epoch from standby.replay_lag)), 0)::double precision
    from pg_stat_replication standby
$$;
revoke all on function reporting.standbys_of_owner() from public;
