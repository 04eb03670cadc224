-- Adds the next p_entries entries of an organisation to its sums (entry_total, usage_total, usage_member), and returns how many they
-- were; null: somebody else is at it, or the organisation is not in total_place. No balance row is locked or waited for: an
-- organisation's entries have places without a gap, in the order in which they are committed, so up to a place that is seen none is
-- missing.
--
-- The first time, and where entries have left for an archive before they were added, the sums are made from all there is, in one
-- snapshot: usage_day and `booked` keep what has left.
create or replace function add_to_totals(p_org uuid, p_entries integer) returns bigint
language plpgsql set plan_cache_mode = force_custom_plan set max_parallel_workers_per_gather = 0 as $$
declare
    v_none  constant uuid := '00000000-0000-0000-0000-000000000000';
    v_place bigint;
    v_last  bigint;
    v_seen  bigint;
begin
    select known.place into v_place from total_place known where known.org_id = p_org for update skip locked;
    if not found then
        return null;
    end if;

    if v_place is not null then
        with slice as materialized (
            select added.place, added.kind, added.amount, date_bin('15 minutes', added.created_at, '2000-01-01Z') as at,
                   (added.created_at at time zone 'UTC')::date as day, added.task_type,
                   coalesce(added.team_id, v_none) as team_id, coalesce(added.user_id, v_none) as user_id,
                   coalesce(added.key_id, v_none) as key_id,
                   (added.kind = 'consume')::integer as task,
                   case when added.kind = 'consume' then -added.amount else 0 end as charge,
                   case when added.kind = 'correct' then -added.amount else 0 end as correction
            from entry added
            where added.org_id = p_org and added.place > v_place and added.place <= v_place + p_entries
        ), whole as materialized (
            select count(*) as seen, max(slice.place) as last from slice having count(*) = max(slice.place) - v_place
        ), booked_sums as (
            insert into entry_total as known (org_id, at, kind, lines, amount)
            select p_org, slice.at, slice.kind, count(*), sum(slice.amount)::bigint from slice, whole
            group by slice.at, slice.kind
            on conflict (org_id, at, kind) do update set lines = known.lines + excluded.lines, amount = known.amount + excluded.amount
        ), usage_sums as (
            insert into usage_total as known (org_id, day, team_id, task_type, tasks, charged, corrected)
            select p_org, slice.day, slice.team_id, slice.task_type, sum(slice.task), sum(slice.charge)::bigint,
                   sum(slice.correction)::bigint
            from slice, whole where slice.kind in ('consume', 'correct')
            group by slice.day, slice.team_id, slice.task_type
            on conflict (org_id, day, team_id, task_type) do update
            set tasks = known.tasks + excluded.tasks, charged = known.charged + excluded.charged,
                corrected = known.corrected + excluded.corrected
        ), member_sums as (
            insert into usage_member as known (org_id, kind, month, member_id, tasks, charged, corrected)
            select p_org, member.kind, date_trunc('month', slice.day)::date, member.member_id, sum(slice.task),
                   sum(slice.charge)::bigint, sum(slice.correction)::bigint
            from slice, whole
            cross join lateral (values ('user', slice.user_id), ('key', slice.key_id)) member(kind, member_id)
            where slice.kind in ('consume', 'correct')
            group by 2, 3, 4
            on conflict (org_id, kind, month, member_id) do update
            set tasks = known.tasks + excluded.tasks, charged = known.charged + excluded.charged,
                corrected = known.corrected + excluded.corrected
        )
        select whole.seen, whole.last into v_seen, v_last from whole;
        if found then
            update total_place known set place = v_last where known.org_id = p_org;
            return v_seen;
        end if;
        if not exists (select from entry later where later.org_id = p_org and later.place > v_place) then
            return 0;
        end if;
    end if;

    delete from entry_total known where known.org_id = p_org;
    delete from usage_total known where known.org_id = p_org;
    delete from usage_member known where known.org_id = p_org;
    with booked_sums as (
        insert into entry_total (org_id, at, kind, lines, amount)
        select p_org, date_bin('15 minutes', booked.created_at, '2000-01-01Z'), booked.kind, sum(booked.lines)::bigint,
               sum(booked.amount)::bigint
        from booked where booked.org_id = p_org group by 2, 3
    ), usage_sums as (
        insert into usage_total (org_id, day, team_id, task_type, tasks, charged, corrected)
        select p_org, known.day, known.team_id, known.task_type, sum(known.tasks)::bigint, sum(known.charged)::bigint,
               sum(known.corrected)::bigint
        from usage_day known where known.org_id = p_org group by 2, 3, 4
    ), member_sums as (
        insert into usage_member (org_id, kind, month, member_id, tasks, charged, corrected)
        select p_org, member.kind, date_trunc('month', known.day)::date, member.member_id, sum(known.tasks)::bigint,
               sum(known.charged)::bigint, sum(known.corrected)::bigint
        from usage_day known
        cross join lateral (values ('user', known.user_id), ('key', known.key_id)) member(kind, member_id)
        where known.org_id = p_org group by 2, 3, 4
    ), reached as (
        -- the last entry never leaves for an archive
        select coalesce((select last.place from entry last where last.org_id = p_org and last.place is not null
                         order by last.place desc limit 1), 0) as place
    )
    update total_place known set place = reached.place from reached where known.org_id = p_org
    returning known.place into v_seen;
    return v_seen;
end $$;
