-- Adds the charged tasks of the next p_entries entries to the sums of tasks, of organisations that are furthest behind first, and says
-- of rows of unpaid_task from before 0037 what is counted of them. Returns how many entries and rows that were; null: somebody else is
-- at it. No balance row is locked or waited for: an organisation's entries
-- have places in the order in which they are committed, so up to a place that is seen none is missing. Entries that have left for an
-- archive are passed by; restore_month counts them when they come back.
create or replace function add_tasks_to_totals(p_entries integer) returns bigint
language plpgsql set plan_cache_mode = force_custom_plan as $$
declare
    v_orgs  uuid[];
    v_first bigint[];
    v_last  bigint[];
    v_added bigint;
    v_dated bigint;
begin
    perform from task_turn turn for update skip locked;
    if not found then
        return null;
    end if;
    select array_agg(next.org_id), array_agg(next.place),
           array_agg(least(next.last, next.place + p_entries - next.before)),
           coalesce(sum(least(next.last - next.place, p_entries - next.before)), 0)
    into v_orgs, v_first, v_last, v_added
    from (select behind.org_id, behind.place, behind.last,
                 (sum(behind.last - behind.place) over (order by behind.last - behind.place desc, behind.org_id
                                                        rows unbounded preceding)
                  - (behind.last - behind.place))::bigint as before
          from tasks_place() behind where behind.last > behind.place) next
    where next.before < p_entries;
    if v_added > 0 then
        perform count_tasks(v_orgs, v_first, v_last, 1);
        insert into task_place (org_id, place)
        select reached.org_id, reached.place from unnest(v_orgs, v_last) reached(org_id, place)
        on conflict (org_id) do update set place = excluded.place;
    end if;
    delete from price_total old where old.at < now() - interval '100 days';
    update unpaid_task known set ended_at = ended.at, account = ended.account, figures = ended.figures
    from (select undated.org_id, undated.hold_id from unpaid_task undated
          where undated.figures is distinct from false and undated.ended_at is null limit p_entries - v_added) next
    cross join lateral (
        select held.ended_at as at, held.account,
               held.late is not null or held.drift <> 0 or coalesce(held.reported, 0) <> 0 as figures
        from hold held where held.org_id = next.org_id and held.hold_id = next.hold_id limit 1) ended
    -- what came to light meanwhile is dated already
    where known.org_id = next.org_id and known.hold_id = next.hold_id and known.ended_at is null;
    get diagnostics v_dated = row_count;
    return v_added + v_dated;
end $$;
