-- Signing in at the console without a key: by an identity provider, or by an invitation of an admin.

-- With what the console signs people in at a provider. No client id: it does not. A secret that is to be sent cannot be kept as a
-- hash; no answer, view or line of the audit log has it.
alter table identity_provider
    add column console_client_id     text check (console_client_id <> ''),
    add column console_client_secret text check (console_client_secret <> ''),
    add column console_scopes        text[] not null default '{openid}' check (cardinality(console_scopes) > 0),
    add constraint identity_provider_secret_of_client check (console_client_secret is null or console_client_id is not null);

-- A session may also stand for a subject of an identity provider (public_id: the identity), or for the user itself. More is allowed
-- than before, and the tables are small.
alter table console_session drop constraint console_session_kind_check,
    add constraint console_session_kind_check check (kind in ('key', 'operator', 'identity', 'user'));
alter table console_link drop constraint console_link_kind_check,
    add constraint console_link_kind_check check (kind in ('key', 'operator', 'identity', 'user')),
    -- of an invitation: whom it invites
    add column org_id  uuid references org,
    add column user_id uuid references app_user;
create index console_link_by_user on console_link (user_id, expires_at) where user_id is not null;

-- A sign-in at an identity provider that has begun. The browser keeps a random text of 256 bits, from which all follows that the
-- answer must fit to (state, nonce, and the secret of PKCE); the database keeps its hash. A row is deleted when the answer comes.
create table console_login (
    login_sha256 bytea primary key check (octet_length(login_sha256) = 32),
    provider_id  uuid not null references identity_provider,
    -- the page of the console to go to
    back         text not null check (length(back) <= 2000),
    -- where it was begun: each network has a bounded number of them
    network      text not null check (length(network) <= 64),
    created_at   timestamptz not null default now()
);
create index console_login_by_network on console_login (network, created_at);
create index console_login_by_age on console_login (created_at);
