-- Moves a counter that gateways watch, and tells them.
create or replace function bump_epoch(p_name text) returns void language sql as $$
    update epoch set value = value + 1 where name = p_name;
    select pg_notify('tollgate_epoch', p_name);
$$;
