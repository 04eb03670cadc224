-- Months that leave the database for files (docs/months.md): what of them must be known afterwards. All of it is written by
-- functions/ledger/detach_month.sql and taken away by functions/ledger/restore_month.sql, in the transaction that takes or gives back
-- the rows themselves. Nothing waits for this migration.

-- Labels that the chain of a month has lines of. Null: it was sealed before labels were in it.
alter table month_seal add column labels bigint;

-- What the organisation was charged for a task that is in an archive. Null: its hold is here.
alter table vendor_task add column charged bigint;

-- Who detaches or restores a month holds this row; whoever begins to count all that was ever spent must be able to share it.
create table archive_turn (
    only_one boolean primary key default true check (only_one)
);
insert into archive_turn default values;

-- The months of an organisation of which the charged tasks are in an archive.
create table archived_month (
    org_id      uuid not null,
    month       date not null,
    -- that of its seal, when it left
    chain       bytea not null,
    -- SHA-256 of the archive's manifest, in hexadecimal digits
    manifest    text not null,
    archived_at timestamptz not null default clock_timestamp(),
    primary key (org_id, month)
);

-- The charges that left with a month, in sums: by the day (UTC) they were booked on; at the ends of the month by the quarter of an
-- hour, because months of statements begin by other clocks. In the form of entries: see the view `booked`.
create table archived_charge (
    org_id     uuid not null,
    entry_id   uuid not null,
    month      date not null,
    -- when the day, or the quarter of an hour, began
    created_at timestamptz not null,
    user_id    uuid,
    team_id    uuid,
    key_id     uuid,
    task_type  text not null,
    tasks      bigint not null check (tasks > 0),
    -- not positive, as in the entries
    amount     bigint not null check (amount <= 0),
    primary key (org_id, entry_id)
);
create index archived_charge_by_time on archived_charge (org_id, created_at, entry_id);

-- Where their entries stood in the chain of the organisation's entries: runs of places without a gap.
create table archived_place (
    org_id        uuid not null,
    first_place   bigint not null,
    last_place    bigint not null check (last_place >= first_place),
    month         date not null,
    -- what they add up to, and what the organisation had after the last of them
    amount        bigint not null,
    balance_after bigint not null,
    primary key (org_id, first_place)
);

-- What they were counted as in windows of budgets.
create table archived_window (
    org_id    uuid not null,
    window_id bigint not null,
    month     date not null,
    charged   bigint not null,
    primary key (org_id, window_id, month)
);
