-- Budgets: what a key, a user, a team or an organisation may spend in a time.

-- The budget that counts for a subject and a period is its own; else the one for every subject of its level in its
-- organisation (no subject); else the one for every subject of its level anywhere (no organisation): the platform's
-- default. No budget at all is no limit.
create table budget (
    budget_id    uuid primary key,
    org_id       uuid references org,
    level        text not null check (level in ('key', 'user', 'team', 'org')),
    subject_id   uuid,
    period       text not null check (period in ('total', 'daily', 'weekly', 'monthly')),
    -- null: no limit, although a wider budget may set one
    credits      bigint check (credits >= 0),
    -- a raise that ends by itself
    raised_to    bigint check (raised_to >= 0),
    raised_until timestamptz,
    -- percent of the limit at which an event is raised, once per window and limit
    thresholds   integer[] not null default '{50,80,100}'
        check (0 < all (thresholds) and 100 >= all (thresholds) and array_position(thresholds, null) is null),
    version      integer not null default 1,
    created_at   timestamptz not null default now(),
    check (org_id is not null or subject_id is null),
    check (level <> 'org' or subject_id is null),
    check ((raised_to is null) = (raised_until is null))
);
create unique index budget_place on budget (org_id, level, subject_id, period) nulls not distinct;

-- What one subject spent in one window, whichever budget counts for it: a budget that is changed, dropped or made again
-- finds what was counted. Written under the organisation's balance row only.
create table budget_window (
    org_id     uuid not null,
    window_id  bigint generated always as identity,
    level      text not null,
    subject_id uuid not null,
    period     text not null,
    starts_at  timestamptz not null,
    -- open holds
    held       bigint not null default 0 check (held >= 0),
    -- charges
    used       bigint not null default 0,
    -- the part of the charges whose holds were made before there was a budget, and so do not list this window
    opening    bigint not null default 0,
    -- the highest threshold that was reached, under the present limit
    alerted    integer not null default 0,
    primary key (org_id, window_id)
) with (fillfactor = 50);
create unique index budget_window_place on budget_window (org_id, level, subject_id, period, starts_at);

create table budget_event (
    event_id   bigint generated always as identity primary key,
    org_id     uuid not null,
    window_id  bigint not null,
    budget_id  uuid not null,
    threshold  integer not null,
    -- limit of the budget at that time
    credits    bigint not null,
    -- held and used at that time
    spent      bigint not null,
    created_at timestamptz not null,
    -- whether a gateway has logged and counted it
    told       boolean not null default false,
    unique (org_id, window_id, threshold, credits)
);
create index budget_event_untold on budget_event (event_id) where not told;

-- Numbers for org_balance.budgets.
create sequence budget_state;
