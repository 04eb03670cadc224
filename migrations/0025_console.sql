-- The console's sessions, and links that open one. A browser keeps a random text of 256 bits, the database its hash. A session
-- stands for the credential that opened it and lasts no longer: each look reads the credential as it is then.

create table console_session (
    session_sha256 bytea primary key check (octet_length(session_sha256) = 32),
    kind           text not null check (kind in ('key', 'operator')),
    -- of the API key, or of the operator's token
    public_id      text not null check (length(public_id) between 1 and 64),
    created_at     timestamptz not null default now(),
    -- when it was last used, to the minute
    seen_at        timestamptz not null default now()
);
create index console_session_by_credential on console_session (kind, public_id, created_at);
create index console_session_by_age on console_session (created_at);

-- Each opens one session, once. A row is deleted when it is used.
create table console_link (
    link_sha256 bytea primary key check (octet_length(link_sha256) = 32),
    kind        text not null check (kind in ('key', 'operator')),
    public_id   text not null check (length(public_id) between 1 and 64),
    expires_at  timestamptz not null
);
create index console_link_by_end on console_link (expires_at);
