-- The periodic audit: who runs it now, and its newest result for every gateway. One row.
create table audit_run (
    only_one   boolean primary key default true check (only_one),
    -- begun so far
    runs       bigint not null default 0,
    -- who began the last one
    gateway    uuid,
    -- no other one begins earlier: while one may be under way, and until it has been idle for long enough
    not_before timestamptz not null default '-infinity',
    -- of the last one that came to its end
    started_at timestamptz,
    ended_at   timestamptz,
    seconds    double precision,
    -- rows that broke each check, as {"check": rows}; those that hold are left out
    breaches   jsonb not null default '{}'
);
insert into audit_run default values;
