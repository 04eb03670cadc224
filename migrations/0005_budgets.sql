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
    -- the part of the charges whose holds do not list this window: they had ended before it was counted
    opening    bigint not null default 0,
    -- the highest threshold that was reached, under the present limit
    alerted    integer not null default 0,
    primary key (org_id, window_id)
) with (fillfactor = 50);
-- The subject comes last: the windows that are open now are found without those of the past.
create unique index budget_window_place on budget_window (org_id, level, period, starts_at, subject_id);

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

-- What is yet to be done in an organisation after a change of a budget. src/store/budgets/counting.rs says how.
create table budget_count (
    org_id     uuid not null,
    budget_id  uuid not null,
    -- as in the budget, which may have been deleted
    level      text not null,
    subject_id uuid,
    period     text not null,
    -- true: what was spent in the present window is to be counted, and until then the budget is not in force in the
    -- organisation. False: only its events are to be raised anew.
    coming     boolean not null,
    -- another time zone opens another window: until that is counted, the windows of the former zone are in force
    zone_before text,
    -- a count that is begun anew has another number
    count_id   bigint not null generated always as identity,
    -- the window that is counted; null: not begun. The next window is in force from its first instant.
    starts_at  timestamptz,
    ends_at    timestamptz,
    primary key (org_id, budget_id)
);
create index budget_count_of on budget_count (budget_id);

-- How far a count has come through the entries of the organisation: all open holds list the window by now. No balance row
-- is locked by those who write here.
create table budget_count_place (
    org_id     uuid not null,
    count_id   bigint not null,
    -- the last entry there was when the count began
    until_at   timestamptz not null,
    -- the last entry that was looked at
    last_at    timestamptz not null,
    last_entry uuid not null,
    done       boolean not null default false,
    primary key (org_id, count_id)
);

-- What was found so far, of each subject: charges whose holds do not list the window.
create table budget_count_sum (
    org_id     uuid not null,
    count_id   bigint not null,
    subject_id uuid not null,
    charged    bigint not null,
    primary key (org_id, count_id, subject_id)
);

-- Numbers for org_balance.budgets.
create sequence budget_state;
