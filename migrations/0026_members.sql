-- What members of an organisation do for themselves: make keys within a policy that their admin sets, and ask for more budget.

-- No row: members make no keys.
create table key_policy (
    org_id         uuid primary key references org,
    -- whether members may make, rename, rotate and revoke keys of their own
    enabled        boolean not null default false,
    -- keys that one member may have at a time; revoked and expired ones do not count
    max_keys       integer not null default 3 check (max_keys between 0 and 1000),
    -- the longest life of such a key; null: as long as the member likes
    max_days       integer check (max_days between 1 and 3650),
    -- task types that such a key may create; null: all
    allowed_types  text[] check (cardinality(allowed_types) > 0 and array_position(allowed_types, null) is null),
    -- the budget that each such key is made with; null: none
    budget_period  text check (budget_period in ('total', 'daily', 'weekly', 'monthly')),
    budget_credits bigint check (budget_credits >= 0),
    version        integer not null default 1,
    check ((budget_period is null) = (budget_credits is null))
);

-- Requests for a temporary raise of a budget. The oldest that are not open go when there are too many of an organisation
-- (function request_budget): the audit log has them all.
create table budget_request (
    request_id  uuid primary key,
    org_id      uuid not null references org,
    -- whose it is
    user_id     uuid not null references app_user,
    -- the budget: its place, because another one may count there by the time it is answered
    level       text not null check (level in ('key', 'user', 'team', 'org')),
    subject_id  uuid not null,
    period      text not null check (period in ('total', 'daily', 'weekly', 'monthly')),
    -- the limit that is asked for, until when, and why
    credits     bigint not null check (credits > 0),
    until       timestamptz not null,
    reason      text not null,
    state       text not null default 'open' check (state in ('open', 'granted', 'declined')),
    -- the answer: what was granted until when, and with what words
    granted     bigint,
    granted_until timestamptz,
    answered_at timestamptz,
    answer      text,
    created_at  timestamptz not null default now(),
    check ((state = 'open') = (answered_at is null)),
    check ((state = 'granted') = (granted is not null) and (granted is null) = (granted_until is null))
);
create index budget_request_by_org on budget_request (org_id, request_id);
create index budget_request_open on budget_request (user_id) where state = 'open';
