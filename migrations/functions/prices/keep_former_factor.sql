-- Trigger: keeps the default price factor that an organisation had before a change. What was replaced hours ago is of no use: no
-- quote is valid for that long.
create or replace function keep_former_factor() returns trigger language plpgsql as $$
begin
    delete from former_price_factor former
    where former.org_id = old.org_id and former.replaced_at < clock_timestamp() - interval '2 hours';
    insert into former_price_factor (org_id, factor_bp) values (old.org_id, old.price_factor_bp);
    return null;
end $$;
