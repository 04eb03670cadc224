-- Views for dashboards, and a role that reads them and nothing else.
--
-- The views run with the rights of their owner, who migrates; what they leave out cannot be reached: prompts and whatever
-- else came from outside (`data`, `answer`, reasons, references), secrets and their digests, keys' public halves, the audit
-- log. What is told of people are the names they have here. Functions run with the rights of who asks, so none that reads
-- is called; the two that look at other sessions are the owner's and take no arguments.
--
-- The role cannot log in. Whoever may make roles gives a program a login:
--
--     create role grafana login password '…' in role tollgate_reader;
--     alter role grafana set statement_timeout = '30s';
--     alter role grafana set default_transaction_read_only = on;
--
-- (Settings of a role do not pass to its members: they cannot be made here.)
-- Like every login it may make temporary tables, send notifications and take advisory locks; the first of these ends with
-- `revoke temporary on database … from public`.
--
-- Roles belong to the whole cluster: another database may have made it, or be making it now. Who migrates may not be
-- allowed to make roles: then everything but the grants is done here, and an administrator makes up for it:
--
--     create role tollgate_reader nologin;                                        -- as an administrator
--     grant usage on schema reporting to tollgate_reader;                         -- as the one who migrates
--     grant select on all tables in schema reporting to tollgate_reader;
--     alter default privileges in schema reporting grant select on tables to tollgate_reader;
--
-- Replicas that know only the migrations before this one notice nothing: no table is changed, none is locked.

create schema if not exists reporting;
revoke all on schema reporting from public;

create or replace view reporting.organisations as
select o.org_id, o.name, case when o.deleted_at is null then o.status else 'deleted' end as status,
       o.time_zone, round(o.price_factor_bp / 100.0, 2) as price_percent, o.created_at,
       'org_' || replace(o.org_id::text, '-', '') as reference
from org o;

create or replace view reporting.balances as
select o.org_id, o.name as organisation, o.status, o.reference, b.available, b.held, b.consumed, b.granted, b.overdraft,
       b.open_tasks, b.in_doubt, s.low_threshold, coalesce(b.available < s.low_threshold, false) as low
from reporting.organisations o join org_balance b using (org_id) left join credit_setting s using (org_id);

-- At the rate of the last seven days (UTC, today included; since it was made, if that was later, but a day at least), as
-- `tollgate admin credit show` tells it. days_left is null where nothing is consumed.
create or replace view reporting.runway as
select o.org_id, o.name as organisation, o.status, b.available,
       ceil(s.credits * 86400 / t.seconds) as credits_per_day,
       case when s.credits > 0 then round(greatest(b.available, 0) * t.seconds / s.credits / 86400, 2) end as days_left
from reporting.organisations o join org_balance b using (org_id)
cross join lateral (select date_trunc('day', now() at time zone 'UTC') - interval '6 days' as day) d
cross join lateral (
    select greatest(extract(epoch from now() - greatest(o.created_at, d.day at time zone 'UTC')), 86400)::numeric as seconds) t
cross join lateral (
    select greatest(coalesce(sum(u.charged + u.corrected), 0), 0) as credits
    from usage_day u where u.org_id = o.org_id and u.day >= d.day::date) s;

-- Charges by the day (UTC) they were booked on, from the roll-up that the ledger keeps. `at` is that day's begin.
create or replace view reporting.spend as
select u.day, u.day::timestamp at time zone 'UTC' as at, u.org_id, o.name as organisation, u.team_id,
       coalesce(t.name, 'no team') as team, u.user_id, coalesce(p.name, 'unknown') as user_name, u.key_id,
       coalesce(k.name, 'no key') as key_name, u.task_type, u.tasks, u.charged + u.corrected as credits
from usage_day u
left join org o using (org_id)
left join team t using (team_id)
left join app_user p on p.user_id = u.user_id
left join api_key k using (key_id);

-- Of everybody for whom a budget counts: its own, else that for each of its level in the organisation, else the platform's.
-- What was spent is that of the window that is open now. First instants of days as in migration 7.
create or replace view reporting.budget_use as
select o.org_id, o.name as organisation, p.level, s.subject_id, s.subject, p.period, c.cap as credits,
       coalesce(w.used, 0) as used, coalesce(w.held, 0) as held,
       case when c.cap > 0 then (coalesce(w.used, 0) + coalesce(w.held, 0)) / c.cap::numeric
            when coalesce(w.used, 0) + coalesce(w.held, 0) > 0 then 1 else 0 end as share,
       nullif(v.starts_at, '-infinity') as since, c.raised
from org o
join org_balance a on a.org_id = o.org_id and a.budgets > 0
cross join (select distinct b.level, b.period from budget b) p
cross join lateral (
    select o.org_id as subject_id, o.name as subject where p.level = 'org'
    union all
    select t.team_id, t.name from team t where p.level = 'team' and t.org_id = o.org_id and t.deleted_at is null
    union all
    select u.user_id, u.name from app_user u where p.level = 'user' and u.org_id = o.org_id and u.deleted_at is null
    union all
    select k.key_id, u.name || ': ' || k.name from api_key k join app_user u using (user_id)
    where p.level = 'key' and k.org_id = o.org_id and k.revoked_at is null) s
cross join lateral (
    select case when b.credits is not null and b.raised_until > now() then greatest(b.raised_to, b.credits) else b.credits end as cap,
           coalesce(b.raised_until > now(), false) as raised
    from budget b
    where (b.org_id = o.org_id or b.org_id is null) and b.level = p.level
      and (b.subject_id = s.subject_id or b.subject_id is null) and b.period = p.period
    order by b.subject_id is null, b.org_id is null limit 1) c
cross join lateral (
    select date_trunc(case p.period when 'weekly' then 'week' when 'monthly' then 'month' else 'day' end,
                      now() at time zone o.time_zone) as day) d
cross join lateral (
    select case when p.period = 'total' then timestamptz '-infinity'
                when date_trunc('day', (d.day at time zone o.time_zone - interval '1 hour') at time zone o.time_zone) = d.day
                then d.day at time zone o.time_zone - interval '1 hour'
                else d.day at time zone o.time_zone end as starts_at) v
left join budget_window w on w.org_id = o.org_id and w.level = p.level and w.subject_id = s.subject_id
    and w.period = p.period and w.starts_at = v.starts_at
where o.deleted_at is null and c.cap is not null;

create or replace view reporting.budget_events as
select e.created_at as at, e.org_id, o.name as organisation, w.level, w.period, e.threshold, e.credits, e.spent,
       coalesce(t.name, p.name, q.name || ': ' || k.name, o.name) as subject
from budget_event e
join org o using (org_id)
join budget_window w using (org_id, window_id)
left join team t on w.level = 'team' and t.team_id = w.subject_id
left join app_user p on w.level = 'user' and p.user_id = w.subject_id
left join api_key k on w.level = 'key' and k.key_id = w.subject_id
left join app_user q on q.user_id = k.user_id;

-- One branch for each state: each has an index of its own over what is open, whatever else there is.
create or replace view reporting.open_tasks as
select h.org_id, o.name as organisation, 'hold_' || replace(h.hold_id::text, '-', '') as reference, h.state,
       h.amount as credits, h.task_type, h.backend, h.account, coalesce(t.name, 'no team') as team,
       coalesce(p.name, 'unknown') as user_name, h.created_at, h.doubt_at, h.known as task_known, h.polls
from (select org_id, hold_id, user_id, team_id, state, amount, task_type, backend, account, created_at,
             null::timestamptz as doubt_at, false as known, polls from hold where state = 'HELD'
      union all
      select org_id, hold_id, user_id, team_id, state, amount, task_type, backend, account, created_at,
             null, true, polls from hold where state = 'RUNNING'
      union all
      select org_id, hold_id, user_id, team_id, state, amount, task_type, backend, account, created_at,
             coalesce(doubt_at, created_at), upstream_task is not null, polls from hold where state = 'IN_DOUBT') h
left join org o using (org_id)
left join team t using (team_id)
left join app_user p on p.user_id = h.user_id;

-- In the upstream's credits, before any factor. Negative: taken back, because the task came to light after all.
create or replace view reporting.losses as
select l.created_at as at, l.org_id, o.name as organisation, 'hold_' || replace(l.hold_id::text, '-', '') as reference,
       h.task_type, h.backend, h.account, h.state, l.amount as credits, l.possible
from platform_loss l join hold h using (org_id, hold_id) left join org o using (org_id);

-- Tasks of which the upstream reported something else than was booked; drift is what was booked less that.
create or replace view reporting.drift as
select h.ended_at as at, h.org_id, o.name as organisation, 'hold_' || replace(h.hold_id::text, '-', '') as reference,
       h.task_type, h.backend, h.account, h.state, h.price_book, h.list_price, h.reported, h.drift
from hold h left join org o using (org_id)
where h.drift <> 0;

create or replace view reporting.overruns as
select e.created_at as at, e.org_id, o.name as organisation, 'hold_' || replace(e.hold_id::text, '-', '') as reference,
       h.task_type, h.account, h.amount as held, -e.amount as charged, e.overrun
from org o join entry e on e.org_id = o.org_id left join hold h on h.org_id = e.org_id and h.hold_id = e.hold_id
where e.overrun > 0;

-- The journal: organisation by organisation, a time of it comes from an index alone.
create or replace view reporting.entries as
select e.created_at as at, e.org_id, o.name as organisation, e.kind, e.amount as credits
from org o join entry e using (org_id);

create or replace view reporting.expiring_credits as
select l.org_id, o.name as organisation, l.expires_at, l.amount as granted, l.amount - l.burned - l.expired as remaining
from credit_lot l join org o using (org_id)
where l.burned + l.expired < l.amount;

create or replace view reporting.gateways as
select 'gw_' || replace(g.gateway_id::text, '-', '') as gateway, g.started_at, g.alive_until, g.alive_until > now() as alive
from gateway g;

create or replace view reporting.price_books as
select a.effective_from as at, b.version, b.name, a.withdrawn_at is not null as withdrawn,
       (select count(*) from price p where p.version = b.version) as prices
from price_activation a join price_book b using (version);

-- What other sessions do is told to their own role only: that is the owner, as whom gateways log in. Never what they ask.
create or replace function reporting.sessions_of_owner()
returns table (state text, waits_for text, sessions bigint, longest_seconds double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select coalesce(a.state, 'unknown'), coalesce(a.wait_event_type, 'nothing'), count(*),
           coalesce(max(extract(epoch from clock_timestamp() - a.xact_start)), 0)::double precision
    from pg_stat_activity a
    where a.datname = current_database() and a.backend_type = 'client backend'
    group by 1, 2
$$;
create or replace function reporting.standbys_of_owner()
returns table (standbys bigint, synchronous bigint, lag_seconds double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select count(*), count(*) filter (where r.sync_state in ('sync', 'quorum')),
           coalesce(max(extract(epoch from r.replay_lag)), 0)::double precision
    from pg_stat_replication r
$$;
revoke all on function reporting.sessions_of_owner(), reporting.standbys_of_owner() from public;

create or replace view reporting.sessions as
select s.state, s.waits_for, s.sessions, s.longest_seconds from reporting.sessions_of_owner() s;

create or replace view reporting.replication as
select r.standbys, r.synchronous, r.lag_seconds, pg_is_in_recovery() as is_standby,
       (select count(*) from pg_replication_slots) as slots,
       (select coalesce(max(pg_wal_lsn_diff(
                   case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, p.restart_lsn)), 0)
        from pg_replication_slots p) as kept_bytes
from reporting.standbys_of_owner() r;

create or replace view reporting.database as
select d.datname as name, pg_database_size(d.oid) as bytes, s.numbackends as connections,
       current_setting('max_connections')::integer as max_connections, s.xact_commit as commits, s.xact_rollback as rollbacks,
       s.deadlocks, s.conflicts, s.temp_bytes, s.blks_hit, s.blks_read,
       case when s.blks_hit + s.blks_read > 0 then s.blks_hit / (s.blks_hit + s.blks_read)::numeric end as hit_share,
       age(d.datfrozenxid) as transaction_ids_used, pg_postmaster_start_time() as started_at,
       current_setting('server_version') as server_version
from pg_database d join pg_stat_database s on s.datid = d.oid
where d.datname = current_database();

create or replace view reporting.locks as
select l.mode, l.locktype as kind, count(*) filter (where l.granted) as held, count(*) filter (where not l.granted) as waited_for,
       coalesce(max(extract(epoch from clock_timestamp() - l.waitstart)), 0)::double precision as longest_wait_seconds
from pg_locks l
where l.database = (select d.oid from pg_database d where d.datname = current_database())
group by 1, 2;

-- Rows are estimates of the server's.
create or replace view reporting.tables as
select s.relname as name, greatest(c.reltuples, 0)::bigint as rows, pg_total_relation_size(c.oid) as bytes,
       pg_indexes_size(c.oid) as index_bytes, s.n_dead_tup as dead_rows, s.n_tup_hot_upd as hot_updates, s.n_tup_upd as updates,
       s.seq_scan as scans, greatest(s.last_vacuum, s.last_autovacuum) as vacuumed_at,
       greatest(s.last_analyze, s.last_autoanalyze) as analysed_at
from pg_stat_user_tables s join pg_class c on c.oid = s.relid
where s.schemaname = 'public';

-- How far back what is kept goes: each the first row of an index. Holds have ids in the order of their making.
create or replace view reporting.retention as
select 'entries' as kept, (select min(e.at) from org o cross join lateral (
    select e.created_at as at from entry e where e.org_id = o.org_id order by e.created_at limit 1) e) as oldest
union all
select 'tasks', (select min(h.at) from org o cross join lateral (
    select h.created_at as at from hold h where h.org_id = o.org_id order by h.hold_id limit 1) h)
union all
select 'usage by day', (select min(u.day)::timestamp at time zone 'UTC' from usage_day u)
union all
select 'audit log', (select l.at from audit_log l order by l.audit_id limit 1)
union all
select 'budget events', (select e.created_at from budget_event e order by e.event_id limit 1)
union all
select 'gateways', (select min(g.started_at) from gateway g);

do $$
begin
    begin
        create role tollgate_reader nologin;
    exception
        -- it is there, or another database's migration made it at the same moment
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
            raise notice 'the role tollgate_reader was not made: this migration tells what an administrator does';
    end;
    if exists (select from pg_roles r where r.rolname = 'tollgate_reader') then
        grant usage on schema reporting to tollgate_reader;
        grant select on all tables in schema reporting to tollgate_reader;
        grant execute on all functions in schema reporting to tollgate_reader;
        alter default privileges in schema reporting grant select on tables to tollgate_reader;
    end if;
end $$;
