-- Trigger: rows of price_activation are only added. One that has not begun may be withdrawn.
create or replace function price_activation_keeps() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.withdrawn_at is null and old.effective_from > clock_timestamp()
       and to_jsonb(new) - 'withdrawn_at' = to_jsonb(old) - 'withdrawn_at' then
        return new;
    end if;
    raise exception 'price_activation is append-only: % refused', tg_op using errcode = 'restrict_violation';
end $$;
