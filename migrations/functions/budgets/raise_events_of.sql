-- Raises the events that are due for the present window of a subject (null: of all subjects of that level) after a change
-- of its budget. Under another limit a threshold can be reached again: those that are no longer reached are reset first.
create or replace function raise_events_of(p_org uuid, p_level text, p_subject uuid, p_period text, p_now timestamptz)
returns void language plpgsql as $$
declare
    v_windows constant bigint[] := array(
        select spent.window_id
        from org
        join budget_window spent
            on spent.org_id = org.org_id and spent.starts_at = window_start(p_period, org.time_zone, p_now)
        where org.org_id = p_org and spent.level = p_level and spent.period = p_period
          and (p_subject is null or spent.subject_id = p_subject));
begin
    update budget_window spent set alerted = coalesce((
        select max(percent.threshold)
        from budget_of(spent.org_id, spent.level, spent.subject_id, spent.period, p_now) counts
        cross join lateral unnest(counts.thresholds) percent(threshold)
        where percent.threshold <= spent.alerted
          and reaches(spent.held::numeric + spent.used, counts.cap, percent.threshold)), 0)
    where spent.org_id = p_org and spent.window_id = any (v_windows) and spent.alerted > 0;
    perform raise_budget_events(p_org, v_windows, p_now);
end $$;
