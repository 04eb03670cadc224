-- How many users, teams, keys and budgets an organisation may have. The row without an organisation is the platform's
-- default; a row of an organisation counts instead. Triggers see to it (function check_quota).
create table quota (
    org_id uuid references org,
    kind   text not null check (kind in ('users', 'teams', 'keys', 'budgets')),
    most   integer not null check (most >= 0),
    unique nulls not distinct (org_id, kind)
);
insert into quota (org_id, kind, most) values
    (null, 'users', 10000), (null, 'teams', 1000), (null, 'keys', 20000), (null, 'budgets', 20000);

-- Keys that are not revoked are counted; revoked ones stay, and may be many.
create index api_key_present on api_key (org_id) where revoked_at is null;
