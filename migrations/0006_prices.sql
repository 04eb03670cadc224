-- Price books (a draft can be edited, all else is history), price factors for a time, keys that sign quotes.

create table price_book (
    version        integer primary key generated always as identity,
    name           text not null,
    -- the instant of its latest activation; null: a draft, never used for pricing
    effective_from timestamptz,
    -- counts changes of a draft: an editor says which revision it has seen
    revision       integer not null default 1,
    created_at     timestamptz not null default now()
);

create table price (
    version            integer not null references price_book,
    task_type          text not null check (task_type <> ''),
    unit               text not null check (unit in ('second', 'fixed')),
    credits            bigint not null check (credits > 0),
    -- per second with sound; null: sound does not change the price
    credits_with_audio bigint check (credits_with_audio > 0),
    -- its name in the audit log
    price_id           text generated always as (version::text || '/' || task_type) stored,
    primary key (version, task_type),
    check (unit = 'second' or credits_with_audio is null)
);

-- When each book came into force, or will: one row for each time that price_book.effective_from is set. In force at an
-- instant is the latest activation that has begun and was not withdrawn; of two that begin at once the later row.
create table price_activation (
    activation_id  bigint primary key generated always as identity,
    version        integer not null,
    effective_from timestamptz not null,
    actor          text not null,
    created_at     timestamptz not null default clock_timestamp(),
    -- before it began
    withdrawn_at   timestamptz check (withdrawn_at < effective_from)
);
create index price_activation_by_version on price_activation (version);

-- What an organisation pays of the list price for a time. Spans of one organisation do not overlap: that is checked under
-- the organisation's row lock.
create table price_factor (
    org_id      uuid not null references org,
    factor_id   uuid not null,
    factor_bp   integer not null check (factor_bp between 0 and 1000000),
    valid_from  timestamptz not null,
    -- null: until somebody ends it
    valid_until timestamptz,
    reason      text not null check (reason <> ''),
    version     integer not null default 1,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (org_id, factor_id),
    check (valid_until > valid_from)
);

-- Quotes are signed by the newest key that every gateway has had time to read.
create table signing_key (
    generation integer primary key,
    key        bytea not null check (length(key) = 32),
    created_at timestamptz not null default clock_timestamp()
);

-- The vendor's published prices: the first book, effective from the beginning.
with book as (
    insert into price_book (name, effective_from) values ('vendor list', '2026-01-01T00:00:00Z')
    returning version, effective_from, created_at
), activation as (
    insert into price_activation (version, effective_from, actor, created_at)
    select version, effective_from, 'migration', created_at from book
)
insert into price (version, task_type, unit, credits, credits_with_audio)
select book.version, list.task_type, list.unit, list.credits, list.credits_with_audio
from book, (values
    ('pro-text-to-video',         'second',  54,   80),
    ('pro-image-to-video',        'second',  54,   80),
    ('std-text-to-video',         'second',  40,   60),
    ('std-image-to-video',        'second',  40,   60),
    ('o3-pro-text-to-video',      'second',  48, null),
    ('o3-pro-image-to-video',     'second',  48, null),
    ('o3-pro-reference-to-video', 'second',  72, null),
    ('o3-pro-video-edit',         'fixed',  435, null),
    ('o3-std-text-to-video',      'second',  36, null),
    ('o3-std-image-to-video',     'second',  36, null),
    ('o3-std-reference-to-video', 'second',  20, null),
    ('o3-std-video-edit',         'fixed',  360, null)
) as list(task_type, unit, credits, credits_with_audio);
