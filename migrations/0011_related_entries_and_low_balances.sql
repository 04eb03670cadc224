-- What an entry goes with, and organisations that are low.
--
-- Locks everybody out of `entry`, for a moment: nothing here looks at its rows.

-- Of a transfer its other half, in the other organisation; of an `expire` the grant that ran out. The rows of before are
-- not looked at: nothing made any of these kinds.
alter table entry
    add column related_entry uuid,
    add constraint entry_expire check (kind <> 'expire' or (amount < 0 and related_entry is not null)) not valid,
    add constraint entry_transfer check (kind <> 'transfer' or (amount <> 0 and related_entry is not null)) not valid;

-- Organisations that have fallen below what somebody wants to know of (credit_setting), each told once until it is above
-- again. Apart from the setting itself: that it is low is no change that anybody made.
create table low_balance (
    org_id uuid primary key references org,
    since  timestamptz not null default now()
);
