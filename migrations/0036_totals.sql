-- Sums of what was booked, so that statements and usage need not read every entry. A job makes them beside the ledger
-- (functions/credits/add_to_totals.sql); no balance row is locked for them. Of each organisation they have the entries up to a place in
-- its chain (total_place); what came behind it is little, and is read from the entries. Nothing waits for this migration: the sums of an
-- organisation are made when the job first comes to it.

-- Up to which place an organisation's entries are in its sums. Null: the sums are yet to be made, from all there is.
create table total_place (
    org_id uuid primary key,
    place  bigint check (place >= 0)
);

-- Entries of every kind, by the quarter of an hour (UTC): months of statements begin at one, by whatever clock.
create table entry_total (
    org_id uuid not null,
    at     timestamptz not null,
    kind   text not null,
    lines  bigint not null,
    amount bigint not null,
    primary key (org_id, at, kind)
);

-- usage_day without users and keys, of which an organisation may have any number.
create table usage_total (
    org_id    uuid not null,
    day       date not null,
    team_id   uuid not null,
    task_type text not null,
    tasks     bigint not null,
    charged   bigint not null,
    corrected bigint not null,
    primary key (org_id, day, team_id, task_type)
) with (fillfactor = 70);

-- usage_day by months (the first day), of each user and of each key.
create table usage_member (
    org_id    uuid not null,
    -- 'user' or 'key'
    kind      text not null,
    month     date not null,
    -- the nil id: no key
    member_id uuid not null,
    tasks     bigint not null,
    charged   bigint not null,
    corrected bigint not null,
    primary key (org_id, kind, month, member_id)
) with (fillfactor = 70);
-- Those that consumed most.
create index usage_member_most on usage_member (org_id, kind, month, (charged + corrected) desc, member_id);
