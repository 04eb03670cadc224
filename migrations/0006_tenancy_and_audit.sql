-- Teams, soft deletion, versions of what is edited, operators, and who changed what.
--
-- Replicas that know only the migrations before this one go on: everything is added. They take a member of a suspended
-- team for active until they are replaced.

create table team (
    team_id    uuid primary key,
    org_id     uuid not null references org,
    name       text not null check (name <> ''),
    status     text not null default 'active' check (status in ('active', 'suspended')),
    version    integer not null default 1,
    created_at timestamptz not null default now(),
    deleted_at timestamptz
);
alter table app_user add column team_id uuid references team;
create index app_user_by_team on app_user (team_id) where team_id is not null;

-- What is deleted stays, with its money and its history; only its name is free again.
alter table org add column deleted_at timestamptz;
alter table app_user add column deleted_at timestamptz;
alter table org drop constraint org_name_key;
alter table app_user drop constraint app_user_org_id_name_key;
create unique index org_name on org (name) where deleted_at is null;
create unique index app_user_name on app_user (org_id, name) where deleted_at is null;
create unique index team_name on team (org_id, name) where deleted_at is null;
create index api_key_by_user on api_key (user_id);

-- Its days, weeks and months begin by that clock.
alter table org add column time_zone text not null default 'UTC';

-- Counts changes: an editor says which one it has seen.
alter table org add column version integer not null default 1;
alter table app_user add column version integer not null default 1;
alter table api_key add column version integer not null default 1;

create function next_version() returns trigger language plpgsql as $$
begin
    new.version := old.version + 1;
    return new;
end $$;
create trigger org_version before update on org for each row execute function next_version();
create trigger team_version before update on team for each row execute function next_version();
create trigger app_user_version before update on app_user for each row execute function next_version();
create trigger api_key_version before update on api_key for each row execute function next_version();

create trigger team_epoch after update or delete on team
    for each statement execute function bump_epoch_of('auth');

-- On whose behalf, as it was then: people move between teams, what was spent stays where it was spent.
alter table hold add column team_id uuid;
alter table entry add column team_id uuid, add column task_type text, add column external_ref text;

-- Those who run the platform. Stored like API keys: the digest of the secret and nothing else.
create table operator_token (
    token_id      uuid primary key,
    public_id     text not null unique,
    name          text not null check (name <> ''),
    role          text not null check (role in ('operator', 'operator_read')),
    secret_sha256 bytea not null check (length(secret_sha256) = 32),
    created_at    timestamptz not null default now(),
    expires_at    timestamptz,
    revoked_at    timestamptz
);

-- Who did what to what, from where. Written by triggers, in the transaction of the change itself: nothing that changes
-- these tables can leave it out, whoever it is.
create table audit_log (
    audit_id    bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    actor       text not null,
    -- the caller's address; null: not over the network
    address     text,
    -- the operation of the admin API; else what happened to the row
    action      text not null,
    request_id  text,
    target_kind text not null,
    target_id   text not null,
    org_id      uuid,
    -- of an update only what it changed; never a secret, nor its digest
    before      jsonb,
    after       jsonb
);
create index audit_log_by_org on audit_log (org_id, audit_id);
create index audit_log_by_target on audit_log (target_id, audit_id);
create trigger audit_log_append_only before update or delete on audit_log
    for each row execute function refuse_change();
create trigger audit_log_no_truncate before truncate on audit_log
    for each statement execute function refuse_change();

-- Arguments: what it is, the column of its id. Who: the setting tollgate.audit of the transaction, a JSON object
-- {actor, address, action, request_id}.
create function audit_change() returns trigger language plpgsql as $$
declare
    v_who constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
    v_secret constant text[] := array['secret_sha256', 'previous_sha256'];
    v_old jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - v_secret end;
    v_new jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - v_secret end;
    v_row constant jsonb := coalesce(v_new, v_old);
    v_before jsonb := v_old;
    v_after jsonb := v_new;
begin
    if tg_op = 'UPDATE' then
        if new is not distinct from old then return null; end if;
        select coalesce(jsonb_object_agg(o.key, o.value), '{}'), coalesce(jsonb_object_agg(o.key, v_new -> o.key), '{}')
        into v_before, v_after
        from jsonb_each(v_old) o where o.key <> 'version' and v_new -> o.key is distinct from o.value;
        -- A new secret is a change, although neither is shown.
        if v_before = '{}' and not exists (
            select from unnest(v_secret) s where to_jsonb(new) -> s is distinct from to_jsonb(old) -> s)
        then return null; end if;
    end if;
    insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, before, after)
    values (coalesce(v_who ->> 'actor', 'database:' || session_user), v_who ->> 'address',
            coalesce(v_who ->> 'action', tg_argv[0] || '.' || lower(tg_op)), v_who ->> 'request_id',
            tg_argv[0], v_row ->> tg_argv[1], (v_row ->> 'org_id')::uuid, v_before, v_after);
    return null;
end $$;
create trigger org_audit after insert or update or delete on org
    for each row execute function audit_change('org', 'org_id');
-- the columns of the hot row that people set, and only those
create trigger org_balance_audit after update of overdraft, max_open_tasks on org_balance
    for each row execute function audit_change('org', 'org_id');
create trigger team_audit after insert or update or delete on team
    for each row execute function audit_change('team', 'team_id');
create trigger app_user_audit after insert or update or delete on app_user
    for each row execute function audit_change('user', 'user_id');
create trigger api_key_audit after insert or update or delete on api_key
    for each row execute function audit_change('key', 'key_id');
create trigger operator_token_audit after insert or update or delete on operator_token
    for each row execute function audit_change('operator_token', 'token_id');
create trigger entry_audit after insert on entry
    for each row when (new.kind not in ('consume', 'correct')) execute function audit_change('entry', 'entry_id');
