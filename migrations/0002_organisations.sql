-- Organisations, their teams and their users. Every key of the tables below starts with org_id where it can, so that the
-- same schema can be sharded by organisation.
--
-- What is deleted stays, with its money and its history: deleted_at is set, and only its name is free again.

create table org (
    org_id            uuid primary key,
    name              text not null check (name <> ''),
    status            text not null default 'active' check (status in ('active', 'suspended')),
    price_factor_bp   integer not null default 10000 check (price_factor_bp between 0 and 1000000),
    -- null: the gateway's default; 0: no limit
    create_per_minute integer check (create_per_minute >= 0),
    status_per_minute integer check (status_per_minute >= 0),
    -- its days, weeks and months begin by this clock
    time_zone         text not null default 'UTC',
    -- counts changes: an editor says which version it has seen
    version           integer not null default 1,
    created_at        timestamptz not null default now(),
    deleted_at        timestamptz
);
create unique index org_name on org (name) where deleted_at is null;

create table team (
    team_id    uuid primary key,
    org_id     uuid not null references org,
    name       text not null check (name <> ''),
    status     text not null default 'active' check (status in ('active', 'suspended')),
    version    integer not null default 1,
    created_at timestamptz not null default now(),
    deleted_at timestamptz
);
create unique index team_name on team (org_id, name) where deleted_at is null;

create table app_user (
    user_id    uuid primary key,
    org_id     uuid not null references org,
    team_id    uuid references team,
    name       text not null check (name <> ''),
    role       text not null default 'member' check (role in ('member', 'admin')),
    status     text not null default 'active' check (status in ('active', 'suspended')),
    version    integer not null default 1,
    created_at timestamptz not null default now(),
    deleted_at timestamptz
);
create unique index app_user_name on app_user (org_id, name) where deleted_at is null;
create index app_user_by_team on app_user (team_id) where team_id is not null;
