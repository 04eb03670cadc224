-- Keys that are rotated with an overlap, when each was last used, and callers who come with a token of an identity
-- provider instead of a key.
--
-- Replicas that know only the migrations before this one go on: everything is added. They know no key by its former
-- secret, and no tokens, until they are replaced.

-- The secret before the last rotation, and until when it works.
alter table api_key
    -- the second part of its text; null: made before this, take 'live'
    add column env                text,
    add column previous_public_id text unique,
    add column previous_sha256    bytea check (length(previous_sha256) = 32),
    add column previous_until     timestamptz,
    add column rotated_at         timestamptz,
    -- its creates are refused, as those of a suspended user are
    add column suspended          boolean not null default false,
    add check ((previous_public_id is null) = (previous_sha256 is null)
           and (previous_public_id is null) = (previous_until is null));

-- Apart from the key itself: being used is no change of it, moves no version and no epoch, and nobody audits it.
create table api_key_use (
    key_id  uuid primary key references api_key,
    used_at timestamptz not null
);

-- Who else may say who is calling.
create table identity_provider (
    provider_id    uuid primary key,
    name           text not null check (name <> ''),
    -- the platform's own staff, or callers of organisations
    serves         text not null check (serves in ('organisations', 'operators')),
    -- the one organisation it speaks for; null: a claim says which
    org_id         uuid references org,
    issuer         text not null check (issuer <> ''),
    audiences      text[] not null check (cardinality(audiences) > 0),
    jwks_url       text not null check (jwks_url <> ''),
    algorithms     text[] not null
        check (cardinality(algorithms) > 0 and algorithms <@ array['RS256', 'ES256', 'EdDSA']),
    leeway_seconds integer not null default 60 check (leeway_seconds between 0 and 300),
    user_claim     text not null default 'sub' check (user_claim <> ''),
    org_claim      text check (org_claim <> ''),
    team_claim     text check (team_claim <> ''),
    role_claim     text check (role_claim <> ''),
    -- value of the role claim to role
    role_map       jsonb not null default '{}' check (jsonb_typeof(role_map) = 'object'),
    create_users   boolean not null default false,
    status         text not null default 'active' check (status in ('active', 'suspended')),
    version        integer not null default 1,
    created_at     timestamptz not null default now(),
    deleted_at     timestamptz,
    check (serves = 'organisations' or (org_id is null and org_claim is null and team_claim is null and not create_users)),
    check (serves = 'organisations' or role_claim is not null),
    check (serves = 'operators' or org_id is not null or org_claim is not null)
);
create unique index identity_provider_name on identity_provider (name) where deleted_at is null;

-- A subject of a provider within an organisation is one user, whatever it is called; it stays bound to that user when
-- the user is deleted, so that no token brings a deleted one back as somebody new.
create table user_identity (
    identity_id  uuid primary key,
    provider_id  uuid not null references identity_provider,
    org_id       uuid not null references org,
    subject      text not null check (subject <> ''),
    user_id      uuid not null references app_user,
    -- when the newest token was issued whose claims about team and role were taken over
    claims_as_of bigint not null default 0,
    created_at   timestamptz not null default now(),
    unique (provider_id, subject, org_id)
);
create index user_identity_by_user on user_identity (user_id);

create trigger identity_provider_version before update on identity_provider
    for each row execute function next_version();
-- Also for a new one: gateways keep the whole list in memory.
create trigger identity_provider_epoch after insert or update or delete on identity_provider
    for each statement execute function bump_epoch_of('auth');
-- Not for a new one: what is not known is looked for each time.
create trigger user_identity_epoch after update or delete on user_identity
    for each statement execute function bump_epoch_of('auth');
create trigger identity_provider_audit after insert or update or delete on identity_provider
    for each row execute function audit_change('identity_provider', 'provider_id');
create trigger user_identity_audit after insert or update or delete on user_identity
    for each row execute function audit_change('identity', 'identity_id');
