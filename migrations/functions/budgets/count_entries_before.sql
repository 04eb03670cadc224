-- Counts the next p_entries of the entries that there were when a count began: the charges in the window whose holds do
-- not list it. Such a hold has ended and never lists it later, so this may take its time: no balance row is locked.
--
-- Entries are found by time. The window may begin while the clock is put back, so some before it are looked at too; what
-- decides is when their hold was made.
create or replace function count_entries_before(p_org uuid, p_count bigint, p_entries integer) returns text
language plpgsql set plan_cache_mode = force_custom_plan as $$
declare
    v_place  record;
    v_window record;
begin
    select place.until_at, place.last_at, place.last_entry, place.done into v_place from budget_count_place place
    where place.org_id = p_org and place.count_id = p_count for update skip locked;
    if not found then return 'busy'; end if;
    select waiting.level, waiting.subject_id, waiting.period, waiting.starts_at, waiting.ends_at into v_window
    from budget_count waiting where waiting.org_id = p_org and waiting.count_id = p_count;
    if not found or v_place.done then return 'more'; end if;

    with slice as materialized (
        select entry.entry_id, entry.created_at, entry.amount, entry.hold_id,
               subject_of(v_window.level, p_org, entry.team_id, entry.user_id, entry.key_id) as subject_id
        from entry
        where entry.org_id = p_org and (entry.created_at, entry.entry_id) > (v_place.last_at, v_place.last_entry)
          and entry.created_at <= v_place.until_at and entry.kind in ('consume', 'correct')
        order by entry.created_at, entry.entry_id limit p_entries
    ), counted as (
        insert into budget_count_sum as known (org_id, count_id, subject_id, charged)
        select p_org, p_count, slice.subject_id, -sum(slice.amount)::bigint
        from slice
        cross join lateral (
            select hold.created_at, hold.windows from hold
            where hold.org_id = p_org and hold.hold_id = slice.hold_id limit 1) spent
        where slice.subject_id is not null and (v_window.subject_id is null or slice.subject_id = v_window.subject_id)
          and spent.created_at >= v_window.starts_at and spent.created_at < v_window.ends_at
          and (spent.windows is null or not coalesce((
            select known.window_id = any (spent.windows) from budget_window known
            where known.org_id = p_org and known.level = v_window.level and known.subject_id = slice.subject_id
              and known.period = v_window.period and known.starts_at = v_window.starts_at limit 1), false))
        group by slice.subject_id
        on conflict (org_id, count_id, subject_id) do update set charged = known.charged + excluded.charged
    ), last as (
        select count(*) over () as seen, slice.created_at, slice.entry_id
        from slice order by slice.created_at desc, slice.entry_id desc limit 1
    )
    update budget_count_place place
    set last_at = last.created_at, last_entry = last.entry_id, done = last.seen < p_entries
    from last where place.org_id = p_org and place.count_id = p_count;
    if not found then
        update budget_count_place place set done = true where place.org_id = p_org and place.count_id = p_count;
    end if;
    return 'more';
end $$;
