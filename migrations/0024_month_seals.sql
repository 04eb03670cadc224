-- Months that are closed, organisation by organisation: what their holds and entries add up to, and a chain of digests over all of
-- them, which can be proved outside of the database (docs/months.md). Rows are only added.
create table month_seal (
    org_id       uuid not null,
    -- the first day (UTC); holds and entries are in the month of their ids
    month        date not null,
    holds        bigint not null,
    settled      bigint not null,
    released     bigint not null,
    written_off  bigint not null,
    -- of the settled ones
    charged      bigint not null,
    entries      bigint not null,
    -- sums of amounts
    consumed     bigint not null,
    corrected    bigint not null,
    granted      bigint not null,
    -- the chain of the organisation's sealed month before, or 32 bytes of zero
    chain_before bytea not null,
    chain        bytea not null,
    sealed_at    timestamptz not null default clock_timestamp(),
    primary key (org_id, month)
);
