-- Credits that expire, low balances, usage by day.

-- A grant that expires. src/store/credits/expiry.rs says what burns it.
create table credit_lot (
    org_id     uuid not null,
    -- the grant
    entry_id   uuid not null,
    amount     bigint not null check (amount > 0),
    expires_at timestamptz not null,
    -- whether the job that attributes what was spent has come to this grant
    counted    boolean not null default false,
    burned     bigint not null default 0 check (burned >= 0),
    expired    bigint not null default 0 check (expired >= 0),
    primary key (org_id, entry_id),
    foreign key (org_id, entry_id) references entry,
    check (burned <= amount - expired),
    check (counted or (burned = 0 and expired = 0))
);
create index credit_lot_left on credit_lot (org_id, expires_at, entry_id) where burned + expired < amount;

-- Of an organisation with such grants: all other credits, less what was spent and burned no grant. Below zero: spent
-- before there were credits, and paid by the next ones.
create table credit_pool (
    org_id uuid primary key,
    credits bigint not null
);

-- Entries of such an organisation that are not attributed yet, in the order of the journal: they are added, and taken
-- away, under its balance row.
create table credit_event (
    org_id   uuid not null,
    place    bigint generated always as identity,
    entry_id uuid not null,
    primary key (org_id, place)
);

-- Below which an organisation is warned. Not on the hot row: a reservation does not need it.
create table credit_setting (
    org_id        uuid primary key references org,
    -- null: never warn
    low_threshold bigint check (low_threshold >= 0),
    version       integer not null default 1
);

-- Organisations that have fallen below their threshold, each told once until it is above again. Apart from the setting:
-- that a balance is low is no change that anybody made.
create table low_balance (
    org_id uuid primary key references org,
    since  timestamptz not null default now()
);

-- What tasks cost, by the day (UTC) of the entry. Kept by a trigger on entry, under the organisation's balance row.
-- The nil id stands for none: a caller without a key, a user without a team.
create table usage_day (
    org_id    uuid not null,
    day       date not null,
    user_id   uuid not null,
    team_id   uuid not null,
    key_id    uuid not null,
    task_type text not null,
    -- settled and charged
    tasks     bigint not null,
    charged   bigint not null,
    -- charged by later corrections
    corrected bigint not null,
    primary key (org_id, day, user_id, team_id, key_id, task_type)
) with (fillfactor = 70);
create index usage_day_by_day on usage_day (day);
