-- What the database knows about its own schema, beside the migrations that sqlx has recorded in _sqlx_migrations.

-- Migrations only add, so a gateway serves on a newer schema. A migration that has to take something away says so here, in
-- its own text: insert into schema_requirement values (<its number>, '<why>'). A gateway that does not know that migration
-- then refuses to start, and a running one is no longer ready.
create table schema_requirement (
    -- gateways that do not know this migration can no longer run
    needs_migration bigint primary key,
    reason          text not null
);

-- What `tollgate migrate` has applied of functions/, triggers/ and views/: it applies a file again when its text has
-- changed.
create table schema_definition (
    -- path of the file below migrations/, without its ending
    name     text primary key,
    -- SHA-256 of the text
    digest   bytea not null check (length(digest) = 32),
    -- of all definitions together: the newest that was applied here. A gateway needs its own or a newer one.
    revision integer not null check (revision > 0)
);
