-- What is no charge is looked for among millions of charges.
create index entry_no_charge on entry (org_id, created_at, entry_id) where kind <> 'consume';

-- Organisations that have fallen below what somebody wants to know of (credit_setting), each told once until it is above
-- again. Apart from the setting itself: that it is low is no change that anybody made.
create table low_balance (
    org_id uuid primary key references org,
    since  timestamptz not null default now()
);
