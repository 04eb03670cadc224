-- Exposure: what the tasks of an organisation cost the platform, or may have cost it, and whether its creates are stopped
-- for that. functions/ledger/count_exposure.sql says what is counted.

-- All null until something is counted: the balance rows of most organisations stay as narrow as they are.
alter table org_balance
    -- when the count began; functions/ledger/exposure_start.sql says whether it still goes on
    add column exposure_since      timestamptz,
    -- credits of the vendor, before the price factor: booked as the platform's loss, in doubt, above the list price
    add column exposure_lost       bigint check (exposure_lost >= 0),
    add column exposure_in_doubt   bigint check (exposure_in_doubt >= 0),
    add column exposure_overrun    bigint check (exposure_overrun >= 0),
    -- since when creates are refused, until an operator lets them go on
    add column stopped_at          timestamptz;
