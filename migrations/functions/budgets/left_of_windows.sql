-- What is left of each window, how much is left when its next event is due (alert, if p_alerts asks for it), and where its row
-- is. A window that nobody has drawn on has no id yet; where there is no limit, as much is left as can be.
create or replace function left_of_windows(
    p_orgs uuid[], p_pos integer[], p_level text[], p_subject uuid[], p_period text[], p_starts timestamptz[],
    p_cap bigint[], p_thresholds text[], p_alerts boolean,
    out window_id bigint[], out remains bigint[], out alert bigint[], out at tid[]
) language plpgsql stable as $$
#variable_conflict use_column
begin
    select array_agg(spent.window_id order by wanted.ord),
           array_agg(case when wanted.cap is null then 9223372036854775807
                          when spent.window_id is null then wanted.cap
                          else saturated(wanted.cap::numeric - spent.held - spent.used) end order by wanted.ord),
           array_agg(case when p_alerts then
                          (select wanted.cap - ceil(wanted.cap::numeric * min(percent) / 100)::bigint
                           from unnest(wanted.thresholds::integer[]) percent
                           where percent > coalesce(spent.alerted, 0)) end order by wanted.ord),
           array_agg(spent.at order by wanted.ord)
    into window_id, remains, alert, at
    from unnest(p_pos, p_level, p_subject, p_period, p_starts, p_cap, p_thresholds) with ordinality
         wanted(pos, level, subject_id, period, starts_at, cap, thresholds, ord)
    left join lateral (
        select known.ctid as at, known.window_id, known.held, known.used, known.alerted from budget_window known
        where known.org_id = p_orgs[wanted.pos] and known.level = wanted.level and known.subject_id = wanted.subject_id
          and known.period = wanted.period and known.starts_at = wanted.starts_at limit 1) spent on true;
end $$;
