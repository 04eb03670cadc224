-- Gives an organisation a price factor from p_from on (null: now) until just before p_until (null: until somebody ends it).
--
-- outcome: 'created', 'unknown_org', 'begins_in_the_past', 'ends_before_it_begins', 'overlaps' (other: the one that is valid then).
create or replace function create_price_factor(
    p_org uuid, p_factor uuid, p_basis_points integer, p_from timestamptz, p_until timestamptz, p_reason text,
    out outcome text, out other uuid
) language plpgsql as $$
declare
    v_now   timestamptz;
    v_start timestamptz;
begin
    perform from org where org.org_id = p_org and org.deleted_at is null for no key update;
    if not found then outcome := 'unknown_org'; return; end if;
    v_now := clock_timestamp();
    v_start := coalesce(p_from, v_now);
    -- What was created in the past keeps its price.
    if v_start < v_now then outcome := 'begins_in_the_past'; return; end if;
    if p_until <= v_start then outcome := 'ends_before_it_begins'; return; end if;
    select factor.factor_id into other from price_factor factor
    where factor.org_id = p_org and factor.valid_from < coalesce(p_until, 'infinity')
      and coalesce(factor.valid_until, 'infinity') > v_start limit 1;
    if found then outcome := 'overlaps'; return; end if;
    insert into price_factor (org_id, factor_id, factor_bp, valid_from, valid_until, reason)
    values (p_org, p_factor, p_basis_points, v_start, p_until, p_reason);
    outcome := 'created';
end $$;
