-- Who may call: API keys, tokens of identity providers, operators.

-- Of a secret only the SHA-256 digest is stored.
create table api_key (
    key_id             uuid primary key,
    public_id          text not null unique,
    org_id             uuid not null references org,
    user_id            uuid not null references app_user,
    name               text not null,
    -- the environment label in the key's text: tg_<env>_…
    env                text not null,
    secret_sha256      bytea not null check (length(secret_sha256) = 32),
    allowed_types      text[],
    allowed_networks   text[],
    create_per_minute  integer check (create_per_minute >= 0),
    status_per_minute  integer check (status_per_minute >= 0),
    -- its creates are refused, as those of a suspended user are
    suspended          boolean not null default false,
    version            integer not null default 1,
    created_at         timestamptz not null default now(),
    expires_at         timestamptz,
    revoked_at         timestamptz,
    -- the secret before the last rotation, and until when it works
    previous_public_id text unique,
    previous_sha256    bytea check (length(previous_sha256) = 32),
    previous_until     timestamptz,
    rotated_at         timestamptz,
    check ((previous_public_id is null) = (previous_sha256 is null)
       and (previous_public_id is null) = (previous_until is null))
);
create index api_key_by_org on api_key (org_id);
create index api_key_by_user on api_key (user_id);

-- Apart from the key itself: to be used does not change a key, so it moves no version and no epoch, and is not audited.
create table api_key_use (
    key_id  uuid primary key references api_key,
    used_at timestamptz not null
);

-- Issuers of tokens that are accepted in place of a key.
create table identity_provider (
    provider_id    uuid primary key,
    name           text not null check (name <> ''),
    -- whose tokens: the platform's own staff, or callers of organisations
    serves         text not null check (serves in ('organisations', 'operators')),
    -- the one organisation it speaks for; null: a claim names the organisation
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

-- A subject of a provider within an organisation is one user, whatever its name is by now. The tie stays when the user is
-- deleted, so that no token brings a deleted user back as somebody new.
create table user_identity (
    identity_id  uuid primary key,
    provider_id  uuid not null references identity_provider,
    org_id       uuid not null references org,
    subject      text not null check (subject <> ''),
    user_id      uuid not null references app_user,
    -- issue time of the newest token whose claims about team and role were taken over
    claims_as_of bigint not null default 0,
    created_at   timestamptz not null default now(),
    unique (provider_id, subject, org_id)
);
create index user_identity_by_user on user_identity (user_id);

-- Those who run the platform.
create table operator_token (
    token_id      uuid primary key,
    public_id     text not null unique,
    name          text not null check (name <> ''),
    role          text not null check (role in ('operator', 'operator_read')),
    secret_sha256 bytea not null check (length(secret_sha256) = 32),
    created_at    timestamptz not null default now(),
    expires_at    timestamptz,
    revoked_at    timestamptz,
    -- the first operator's token until its text has been shown: it does not count yet
    unconfirmed_since timestamptz
);
