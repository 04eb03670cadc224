-- Past spending of a new budget is counted beside the balance rows, by statements that any gateway may go on with.

-- budget_window.opening is the part of the charges whose holds do not list the window: they had ended before it was counted.
-- Reservations wait while the index is made: about a second for a million windows.
--
-- The subject comes last: the windows that are open now are found without those of the past.
drop index budget_window_place;
create unique index budget_window_place on budget_window (org_id, level, period, starts_at, subject_id);

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
