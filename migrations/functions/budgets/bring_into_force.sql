-- The steps of a count that are under the balance row; p_rows bounds what each of them writes.
--
-- First: from now on reservations list the window (they do, while the budget is not in force), so no hold is added that
-- does not; then the open holds list it too. What is left are charges of holds that have ended: the entries until now. They
-- are counted beside the lock (count_entries_before). Last: what was counted is added to the windows, and with the last of it
-- the budget is in force.
--
-- Nothing needs to be counted where a wider budget has counted everything all the while, where the clock before opened the
-- same window, and where the window has ended: everything in the next one is listed.
create or replace function bring_into_force(p_org uuid, p_budget uuid, p_rows integer) returns text
language plpgsql set plan_cache_mode = force_custom_plan as $$
declare
    v_now    timestamptz;
    v_window record;
    v_zone   text;
    v_done   boolean;
    v_holds  uuid[];
begin
    perform 1 from org_balance balance where balance.org_id = p_org for no key update;
    -- A change of all organisations, or of the time zone, may be at it: not to be waited for under the balance row.
    select waiting.coming, waiting.level, waiting.subject_id, waiting.period, waiting.zone_before, waiting.count_id,
           waiting.starts_at, waiting.ends_at into v_window
    from budget_count waiting
    where waiting.org_id = p_org and waiting.budget_id = p_budget for update skip locked;
    if not found then
        return case when exists (select from budget_count waiting where waiting.org_id = p_org and waiting.budget_id = p_budget)
                    then 'busy' else 'done' end;
    end if;
    v_now := clock_timestamp();
    v_zone := (select org.time_zone from org where org.org_id = p_org);
    v_done := not v_window.coming or coalesce(v_window.ends_at <= v_now, false);

    if not v_done and v_window.starts_at is null then
        update org_balance balance set budgets = budgets_of(balance.org_id) where balance.org_id = p_org;
        v_window.starts_at := window_start(v_window.period, v_zone, v_now);
        v_window.ends_at := window_end(v_window.period, v_zone, v_now);
        update budget_count waiting set starts_at = v_window.starts_at, ends_at = v_window.ends_at
        where waiting.org_id = p_org and waiting.budget_id = p_budget;
        v_done := v_window.zone_before is not null
                and v_window.starts_at = window_start(v_window.period, v_window.zone_before, v_now)
            or exists (
                select from budget wider
                where (wider.org_id = p_org or wider.org_id is null) and wider.level = v_window.level
                  and wider.period = v_window.period and wider.subject_id is null and wider.budget_id <> p_budget
                  and not exists (
                      select from budget_count waiting
                      where waiting.org_id = p_org and waiting.budget_id = wider.budget_id and waiting.coming
                        and coalesce(waiting.ends_at, 'infinity') > v_now));
    end if;

    if not v_done then
        v_done := (select place.done from budget_count_place place
                   where place.org_id = p_org and place.count_id = v_window.count_id);
        -- Somebody else may have come further than who called.
        if not v_done then return 'more'; end if;
        if v_done is null then
            v_holds := array(
                select unlisted.hold_id
                from unlisted_holds(p_org, v_window.level, v_window.subject_id, v_window.period, v_window.starts_at,
                                    v_window.ends_at) unlisted limit p_rows);
            if v_holds <> '{}' then
                perform follow_holds(p_org, v_window.level, v_window.period, v_window.starts_at, v_holds);
            else
                if v_window.period = 'total' then
                    -- What is in archives is counted at once. Nobody puts more there, or gives it back, before the place of the
                    -- count is there to be seen.
                    perform turn.only_one from archive_turn turn for share skip locked;
                    if not found then return 'busy'; end if;
                    insert into budget_count_sum (org_id, count_id, subject_id, charged)
                    select p_org, v_window.count_id, unlisted.subject_id, unlisted.charged
                    from archived_spending(p_org, v_window.level, v_window.subject_id) unlisted where unlisted.charged <> 0;
                end if;
                insert into budget_count_place (org_id, count_id, until_at, last_at, last_entry)
                select p_org, v_window.count_id,
                       greatest(v_now, (select entry.created_at from entry where entry.org_id = p_org
                                        order by entry.created_at desc limit 1)),
                       v_window.starts_at - interval '1 hour', '00000000-0000-0000-0000-000000000000';
            end if;
            return 'more';
        end if;

        with chosen as (
            select known.subject_id from budget_count_sum known
            where known.org_id = p_org and known.count_id = v_window.count_id order by known.subject_id limit p_rows
        ), counted as (
            delete from budget_count_sum known using chosen
            where known.org_id = p_org and known.count_id = v_window.count_id and known.subject_id = chosen.subject_id
            returning known.subject_id, known.charged
        )
        insert into budget_window as known (org_id, level, subject_id, period, starts_at, used, opening)
        select p_org, v_window.level, counted.subject_id, v_window.period, v_window.starts_at, counted.charged, counted.charged
        from counted order by counted.subject_id
        on conflict (org_id, level, period, starts_at, subject_id) do update
        set used = known.used - known.opening + excluded.opening, opening = excluded.opening;
        if exists (select from budget_count_sum known
                   where known.org_id = p_org and known.count_id = v_window.count_id) then
            return 'more';
        end if;
    end if;

    delete from budget_count waiting where waiting.org_id = p_org and waiting.budget_id = p_budget;
    update org_balance balance set budgets = budgets_of(balance.org_id) where balance.org_id = p_org;
    perform raise_events_of(p_org, v_window.level, v_window.subject_id, v_window.period, v_now);
    return 'done';
end $$;
