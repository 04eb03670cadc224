-- Raises an event for each threshold that these windows of an organisation have newly reached. Under its balance row.
create or replace function raise_budget_events(p_org uuid, p_windows bigint[], p_now timestamptz) returns void
language plpgsql as $$
begin
    with reached as (
        select spent.window_id, counts.budget_id, percent.threshold, counts.cap,
               saturated(spent.held::numeric + spent.used) as spent
        from budget_window spent
        cross join lateral budget_of(spent.org_id, spent.level, spent.subject_id, spent.period, p_now) counts
        cross join lateral unnest(counts.thresholds) percent(threshold)
        where spent.org_id = p_org and spent.window_id = any (p_windows) and percent.threshold > spent.alerted
          and reaches(spent.held::numeric + spent.used, counts.cap, percent.threshold)
    ), noted as (
        insert into budget_event (org_id, window_id, budget_id, threshold, credits, spent, created_at)
        select p_org, reached.window_id, reached.budget_id, reached.threshold, reached.cap, reached.spent, p_now
        from reached order by reached.window_id, reached.threshold
        on conflict do nothing
    )
    update budget_window spent set alerted = highest.threshold
    from (select window_id, max(threshold) as threshold from reached group by 1) highest
    where spent.org_id = p_org and spent.window_id = highest.window_id;
end $$;
