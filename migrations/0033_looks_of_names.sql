-- How names look, by Unicode's tables (UTS 39): a new name of any kind must not look like another one that is in use beside it.
-- `migrate` writes both tables after the functions, and again when Unicode's tables have changed: less than a second for a hundred
-- thousand names. Names that look alike already stay.

-- What a letter looks like as it is written, and as a capital; those that are not here look like themselves. The row of no letter
-- says by which version of the tables.
create table letter_look (
    letter  text primary key,
    written text not null,
    capital text not null
);

-- A name in use, by the digest of each way to look at it.
create table name_look (
    -- its table
    kind  text not null,
    -- the organisation that it is in; zeros: the platform
    scope uuid not null,
    look  bytea not null,
    id    text not null,
    name  text not null,
    primary key (kind, scope, look, id)
);
create index name_look_by_id on name_look (kind, id);

-- These did the same for four kinds and three scripts.
drop index org_look, team_look, app_user_look, identity_provider_look;
