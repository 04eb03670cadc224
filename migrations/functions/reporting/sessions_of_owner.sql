-- Sessions of the whole server, for reporting.sessions. Postgres tells a role about its own sessions only, so this runs
-- with the rights of the owner, as which gateways log in. Never what the sessions ask.
create or replace function reporting.sessions_of_owner()
returns table (state text, waits_for text, sessions bigint, longest_seconds double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select coalesce(activity.state, 'unknown'), coalesce(activity.wait_event_type, 'nothing'), count(*),
           coalesce(max(extract(epoch from clock_timestamp() - activity.xact_start)), 0)::double precision
    from pg_stat_activity activity
    where activity.datname = current_database() and activity.backend_type = 'client backend'
    group by 1, 2
$$;
revoke all on function reporting.sessions_of_owner() from public;
