-- Trigger; argument: the counter. In the transaction of the change itself: a reader who sees the new row can also see that
-- the counter moved.
create or replace function bump_epoch_of() returns trigger language plpgsql as $$
begin
    perform bump_epoch(tg_argv[0]);
    return null;
end $$;
