-- Organisations, balances, holds, entries: the ledger. The meaning of each state and entry is in src/ledger.rs.
-- Every key starts with org_id, so that the same schema can be sharded by organisation.

create table org (
    org_id            uuid primary key,
    name              text not null unique check (name <> ''),
    status            text not null default 'active' check (status in ('active', 'suspended')),
    price_factor_bp   integer not null default 10000 check (price_factor_bp between 0 and 1000000),
    -- null: the gateway's default; 0: no limit
    create_per_minute integer check (create_per_minute >= 0),
    status_per_minute integer check (status_per_minute >= 0),
    created_at        timestamptz not null default now()
);

-- The hot row of an organisation. No foreign key may point here and no second index may exist: each would
-- multiply the cost of every reservation. The free space keeps updates on their own page.
create table org_balance (
    org_id         uuid primary key,
    available      bigint not null default 0,
    held           bigint not null default 0 check (held >= 0),
    consumed       bigint not null default 0,
    granted        bigint not null default 0,
    overdraft      bigint not null default 0 check (overdraft >= 0),
    open_tasks     integer not null default 0 check (open_tasks >= 0),
    in_doubt       integer not null default 0 check (in_doubt >= 0),
    -- null: the gateway's default; 0: no limit
    max_open_tasks integer check (max_open_tasks >= 0)
) with (fillfactor = 50);

create table app_user (
    user_id    uuid primary key,
    org_id     uuid not null references org,
    name       text not null check (name <> ''),
    role       text not null default 'member' check (role in ('member', 'admin')),
    status     text not null default 'active' check (status in ('active', 'suspended')),
    created_at timestamptz not null default now(),
    unique (org_id, name)
);

create table api_key (
    key_id            uuid primary key,
    public_id         text not null unique,
    org_id            uuid not null references org,
    user_id           uuid not null references app_user,
    name              text not null,
    secret_sha256     bytea not null check (length(secret_sha256) = 32),
    allowed_types     text[],
    allowed_networks  text[],
    create_per_minute integer check (create_per_minute >= 0),
    status_per_minute integer check (status_per_minute >= 0),
    created_at        timestamptz not null default now(),
    expires_at        timestamptz,
    revoked_at        timestamptz
);
create index api_key_by_org on api_key (org_id);

create table price_book (
    version        integer primary key generated always as identity,
    name           text not null,
    -- null: a draft, never used for pricing
    effective_from timestamptz,
    created_at     timestamptz not null default now()
);

create table price (
    version           integer not null references price_book,
    task_type         text not null check (task_type <> ''),
    unit              text not null check (unit in ('second', 'fixed')),
    credits           bigint not null check (credits > 0),
    -- per second with sound; null: sound does not change the price
    credits_with_audio bigint check (credits_with_audio > 0),
    primary key (version, task_type),
    check (unit = 'second' or credits_with_audio is null)
);

create table hold (
    org_id        uuid not null,
    hold_id       uuid not null,
    user_id       uuid not null,
    key_id        uuid,
    state         text not null default 'HELD'
        check (state in ('HELD', 'RUNNING', 'IN_DOUBT', 'SETTLED', 'RELEASED', 'WRITTEN_OFF')),
    amount        bigint not null check (amount >= 0),
    list_price    bigint not null check (list_price >= 0),
    factor_bp     integer not null,
    price_book    integer not null,
    -- what was available after this admission, and how far below zero it was allowed to go
    balance_after bigint not null,
    overdraft     bigint not null,
    task_type     text not null,
    backend       text not null,
    account       text not null,
    owner         uuid not null,
    fingerprint   bytea not null,
    idem_key      text,
    upstream_task text,
    -- the last valid figure the upstream reported, before the factor
    raw_consumed  bigint,
    charged       bigint,
    reason        text,
    -- the upstream's last `data`, verbatim
    data          text,
    created_at    timestamptz not null,
    recorded_at   timestamptz,
    ended_at      timestamptz,
    due_at        timestamptz not null,
    polls         integer not null default 0,
    primary key (org_id, hold_id),
    check (state <> 'RUNNING' or upstream_task is not null),
    check ((state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF')) = (ended_at is not null)),
    check ((state = 'SETTLED') = (charged is not null))
) with (fillfactor = 85);
create unique index hold_by_upstream_task on hold (upstream_task, account) where upstream_task is not null;
create index hold_due on hold (due_at) where state in ('HELD', 'RUNNING', 'IN_DOUBT');
create index hold_in_doubt on hold (org_id, key_id, fingerprint) where state = 'IN_DOUBT';

-- Signed for the organisation. A consume's entry_id is its hold_id: a second one cannot exist.
create table entry (
    org_id     uuid not null,
    entry_id   uuid not null,
    kind       text not null check (kind in ('grant', 'adjust', 'transfer', 'expire', 'consume', 'correct')),
    amount     bigint not null,
    hold_id    uuid,
    seq        integer not null default 0,
    overrun    bigint not null default 0 check (overrun >= 0),
    user_id    uuid,
    key_id     uuid,
    reason     text,
    actor      text,
    created_at timestamptz not null,
    primary key (org_id, entry_id),
    check ((kind in ('consume', 'correct')) = (hold_id is not null)),
    check (kind <> 'grant' or amount > 0),
    check (kind <> 'consume' or (amount <= 0 and entry_id = hold_id))
);
create unique index entry_correction on entry (org_id, hold_id, seq) where kind = 'correct';

-- What the upstream took and no tenant pays. Positive, in upstream credits (no factor).
create table platform_loss (
    org_id     uuid not null,
    hold_id    uuid not null,
    seq        integer not null default 0,
    amount     bigint not null,
    -- false: the upstream said so itself; true: it may have happened
    possible   boolean not null,
    reason     text not null,
    created_at timestamptz not null,
    primary key (org_id, hold_id, seq)
);

create table idempotency (
    org_id      uuid not null,
    endpoint    text not null,
    key         text not null,
    fingerprint bytea not null,
    -- the hold of a create; the entry of a money call
    hold_id     uuid not null,
    status      integer,
    answer      text,
    created_at  timestamptz not null,
    primary key (org_id, endpoint, key)
);

-- One row per run of a gateway; a hold's owner is one of them.
create table gateway (
    gateway_id  uuid primary key,
    started_at  timestamptz not null,
    alive_until timestamptz not null
);

-- Counters that tell a gateway that what it has cached is out of date. Polled, and announced by NOTIFY.
create table epoch (
    name  text primary key,
    value bigint not null
);
insert into epoch values ('auth', 1), ('prices', 1);

create function bump_epoch(p_name text) returns void language sql as $$
    update epoch set value = value + 1 where name = p_name;
    select pg_notify('tollgate_epoch', p_name);
$$;

-- In the transaction of the change itself: whoever sees the new row can also see that the counter moved.
create function bump_epoch_of() returns trigger language plpgsql as $$
begin
    perform bump_epoch(tg_argv[0]);
    return null;
end $$;
create trigger org_epoch after update or delete on org
    for each statement execute function bump_epoch_of('auth');
create trigger app_user_epoch after update or delete on app_user
    for each statement execute function bump_epoch_of('auth');
create trigger api_key_epoch after update or delete on api_key
    for each statement execute function bump_epoch_of('auth');
create trigger price_book_epoch after update on price_book
    for each statement execute function bump_epoch_of('prices');

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: % refused', tg_table_name, tg_op using errcode = 'restrict_violation';
end $$;
create trigger entry_append_only before update or delete on entry
    for each row execute function refuse_change();
create trigger entry_no_truncate before truncate on entry
    for each statement execute function refuse_change();
create trigger platform_loss_append_only before update or delete on platform_loss
    for each row execute function refuse_change();
create trigger platform_loss_no_truncate before truncate on platform_loss
    for each statement execute function refuse_change();

-- The life of a hold as data: what may follow what. The only way a state changes (function transition_batch).
create table transition (
    kind       text not null,
    from_state text not null,
    to_state   text not null,
    primary key (kind, from_state)
);
insert into transition values
    ('run',       'HELD',     'RUNNING'),
    ('run',       'IN_DOUBT', 'RUNNING'),
    ('settle',    'RUNNING',  'SETTLED'),
    ('settle',    'IN_DOUBT', 'SETTLED'),
    -- the upstream accepted the task and then failed it
    ('fail',      'RUNNING',  'RELEASED'),
    ('fail',      'IN_DOUBT', 'RELEASED'),
    -- the upstream never took it: the idempotency key is free again
    ('refuse',    'HELD',     'RELEASED'),
    ('refuse',    'IN_DOUBT', 'RELEASED'),
    -- granted, but nobody waits for it and it was never sent: its own gateway knows, even if another one has taken
    -- it for dead meanwhile
    ('abandon',   'HELD',     'RELEASED'),
    ('abandon',   'IN_DOUBT', 'RELEASED'),
    -- HELD past its time, and its own gateway does not work on it: it was never sent
    ('sweep',     'HELD',     'RELEASED'),
    ('doubt',     'HELD',     'IN_DOUBT'),
    ('doubt',     'RUNNING',  'IN_DOUBT'),
    ('write_off', 'IN_DOUBT', 'WRITTEN_OFF');
