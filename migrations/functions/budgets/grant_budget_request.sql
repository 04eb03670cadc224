-- Grants what a member asked for, or p_credits until p_until: raises the budget and marks the request in one. If a budget for
-- everybody of the level counts, the member's, key's or team's becomes one of its own with the same limit, so that nobody else's
-- is raised. p_budget: the id that it then gets.
--
-- A request that is granted already stays as it is. Verdict: 'granted', 'unknown', 'declined', 'operators' (an organisation's own
-- budget is theirs), 'late', 'no_limit', 'below'. With 'granted' goes the budget that was raised now.
create or replace function grant_budget_request(
    p_org uuid, p_request uuid, p_credits bigint, p_until timestamptz, p_by_operator boolean, p_budget uuid, p_answer text,
    out verdict text, out raised uuid
) language plpgsql as $$
declare
    v_now     constant timestamptz := clock_timestamp();
    v_asked   record;
    v_wide    record;
    v_subject uuid;
    v_credits bigint;
    v_until   timestamptz;
begin
    select asked.level, asked.subject_id, asked.period, asked.credits, asked.until, asked.state into v_asked
    from budget_request asked where asked.request_id = p_request and asked.org_id = p_org for update;
    verdict := case when not found then 'unknown'
                    when v_asked.state = 'granted' then 'granted'
                    when v_asked.state = 'declined' then 'declined'
                    when v_asked.level = 'org' and not p_by_operator then 'operators' end;
    if verdict is not null then return; end if;
    v_credits := coalesce(p_credits, v_asked.credits);
    v_until := coalesce(p_until, v_asked.until);
    v_subject := case when v_asked.level <> 'org' then v_asked.subject_id end;
    if v_until <= v_now then verdict := 'late'; return; end if;

    update budget own set raised_to = v_credits, raised_until = v_until
    where own.org_id = p_org and own.level = v_asked.level and own.subject_id is not distinct from v_subject
      and own.period = v_asked.period and own.credits < v_credits
    returning own.budget_id into raised;
    if raised is null then
        select counting.credits, counting.thresholds into v_wide
        from budget_of(p_org, v_asked.level, v_asked.subject_id, v_asked.period, v_now) counts
        join budget counting on counting.budget_id = counts.budget_id;
        if v_wide.credits is null then verdict := 'no_limit'; return; end if;
        if v_wide.credits >= v_credits then verdict := 'below'; return; end if;
        insert into budget as own (budget_id, org_id, level, subject_id, period, credits, thresholds, raised_to, raised_until)
        values (p_budget, p_org, v_asked.level, v_subject, v_asked.period, v_wide.credits, v_wide.thresholds, v_credits, v_until)
        on conflict (org_id, level, subject_id, period)
            do update set raised_to = excluded.raised_to, raised_until = excluded.raised_until
            where own.credits < excluded.raised_to
        returning own.budget_id into raised;
        if raised is null then verdict := 'below'; return; end if;
    end if;
    update budget_request asked
    set state = 'granted', granted = v_credits, granted_until = v_until, answered_at = v_now, answer = p_answer
    where asked.request_id = p_request;
    verdict := 'granted';
end $$;
