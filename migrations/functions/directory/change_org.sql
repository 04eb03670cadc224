-- Changes an organisation, if its version is still p_version (null: whatever it is). What is null stays, but for the three
-- limits, which p_set_… says to set.
--
-- Answers 'changed', 'unchanged' (it is not there, or of another version), 'unknown_time_zone'.
create or replace function change_org(
    p_org uuid, p_version integer, p_name text, p_status text, p_time_zone text,
    p_set_create boolean, p_create_per_minute integer, p_set_other boolean, p_status_per_minute integer,
    p_set_open boolean, p_max_open_tasks integer, p_overdraft bigint, p_factor integer
) returns text language plpgsql as $$
begin
    -- Most are in UTC, and a look at the list reads hundreds of files. Null must not reach the list: `null and …` looks.
    if coalesce(p_time_zone, 'UTC') <> 'UTC' and not exists (select from pg_timezone_names zone where zone.name = p_time_zone) then
        return 'unknown_time_zone';
    end if;
    -- The balance row first, as everything does that locks both.
    perform from org_balance balance where balance.org_id = p_org for no key update;
    update org
    set create_per_minute = case when p_set_create then p_create_per_minute else org.create_per_minute end,
        status_per_minute = case when p_set_other then p_status_per_minute else org.status_per_minute end,
        price_factor_bp = coalesce(p_factor, org.price_factor_bp), name = coalesce(p_name, org.name),
        status = coalesce(p_status, org.status), time_zone = coalesce(p_time_zone, org.time_zone)
    where org.org_id = p_org and org.deleted_at is null and org.version = coalesce(p_version, org.version);
    if not found then return 'unchanged'; end if;
    if p_set_open or p_overdraft is not null then
        update org_balance balance
        set max_open_tasks = case when p_set_open then p_max_open_tasks else balance.max_open_tasks end,
            overdraft = coalesce(p_overdraft, balance.overdraft)
        where balance.org_id = p_org;
    end if;
    return 'changed';
end $$;
