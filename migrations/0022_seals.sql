-- What a row was written with can be checked against the row: entries of an organisation are numbered, each with the balance after
-- it and a seal of all its columns; a hold has a seal of what it was made with; what becomes of a grant that expires has a journal.
--
-- Functions fill the columns, and triggers where a function of before is still under way. No row that exists is written: entries
-- of before have no place, and `tollgate migrate` takes down their number, sum and seals once (history_seal), without a lock, after
-- the functions are in place. Ends of tasks wait while the index is made, which reads all entries: some seconds for ten million.

alter table entry
    -- 1, 2, … of each organisation, in the order they were booked in, which is that of the locks on its balance row
    add column place         bigint check (place > 0),
    -- what the organisation has after it, holds or not: granted - consumed
    add column balance_after bigint,
    -- functions/ledger/entry_seal.sql
    add column seal          bytea;
create unique index entry_by_place on entry (org_id, place) where place is not null;

alter table hold
    -- functions/ledger/hold_seal.sql
    add column seal bytea;

-- What there was before there were seals. The row of the nil organisation says that it has been taken down.
create table history_seal (
    org_id  uuid primary key,
    -- entries without a place: how many, what they add up to, and the sum of their seals
    entries bigint not null,
    balance bigint not null,
    seals   numeric not null,
    -- holds without a seal
    holds   bigint not null
);

-- The journal of credit_lot: when a grant expires, and what was burned of it. Rows are only added.
create table credit_lot_event (
    org_id     uuid not null,
    -- the grant
    entry_id   uuid not null,
    place      bigint not null generated always as identity,
    -- of the first row of a grant
    expires_at timestamptz,
    -- burned since the row before
    burned     bigint not null check (burned >= 0),
    created_at timestamptz not null default clock_timestamp(),
    primary key (org_id, entry_id, place)
);
