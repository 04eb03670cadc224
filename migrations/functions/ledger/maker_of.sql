-- Who made a hold, and when the vendor's acceptance was recorded with its end; null: there is no such hold.
--
-- One hold a call, by its whole key: a statement that joins `hold` is planned, and begun, with all its partitions, also where it then
-- looks for nothing in them.
create or replace function maker_of(p_org uuid, p_hold uuid, out user_id uuid, out recorded_at timestamptz)
language plpgsql stable as $$
begin
    select hold.user_id, hold.recorded_at into user_id, recorded_at
    from hold where hold.org_id = p_org and hold.hold_id = p_hold;
end $$;
