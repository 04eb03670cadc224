-- Ends a price factor at p_at (null: now), if its version is still p_version (null: whatever it is). One that would end before
-- it begins is taken back.
--
-- outcome: 'ended', 'unknown', 'stale' (version: the present one), 'in_the_past', 'ends_earlier'.
create or replace function end_price_factor(
    p_org uuid, p_factor uuid, p_at timestamptz, p_version integer,
    out outcome text, out version integer
) language plpgsql as $$
declare
    v_from  timestamptz;
    v_until timestamptz;
    v_now   timestamptz;
    v_end   timestamptz;
begin
    perform from org where org.org_id = p_org for no key update;
    select factor.version, factor.valid_from, factor.valid_until into version, v_from, v_until from price_factor factor
    where factor.org_id = p_org and factor.factor_id = p_factor for update;
    if not found then outcome := 'unknown'; return; end if;
    if p_version <> version then outcome := 'stale'; return; end if;
    v_now := clock_timestamp();
    v_end := coalesce(p_at, v_now);
    if v_end < v_now then outcome := 'in_the_past'; return; end if;
    if v_until <= v_end then outcome := 'ends_earlier'; return; end if;
    if v_end <= v_from then
        delete from price_factor factor where factor.org_id = p_org and factor.factor_id = p_factor;
    else
        update price_factor factor set valid_until = v_end where factor.org_id = p_org and factor.factor_id = p_factor;
    end if;
    outcome := 'ended';
end $$;
