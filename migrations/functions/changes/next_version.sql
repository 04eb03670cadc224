-- Trigger: an update raises the row's version.
create or replace function next_version() returns trigger language plpgsql as $$
begin
    new.version := old.version + 1;
    return new;
end $$;
