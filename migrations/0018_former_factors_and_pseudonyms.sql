-- What an organisation paid by default before its default price factor was changed: a quote that was given out before the change
-- still promises the former price, and one that promises any other price is refused. Kept by a trigger on org, for the hours in
-- which a quote may be valid.
create table former_price_factor (
    org_id      uuid not null references org,
    former_id   bigint not null generated always as identity,
    factor_bp   integer not null check (factor_bp between 0 and 1000000),
    replaced_at timestamptz not null default clock_timestamp(),
    primary key (org_id, former_id)
);
create index former_price_factor_by_age on former_price_factor (replaced_at);

-- Forgetting a user looks for the subjects that it was linked to: few entries among many. Changes wait while the index is made:
-- about a second for a million entries.
create index audit_log_identities on audit_log (org_id, audit_id) where target_kind = 'identity';
