-- A member asks for a temporary raise of a budget that counts for it: p_credits is the limit it asks for. p_key: the key it calls
-- with; null: it signed in otherwise. Calls of one member wait for one another at its row.
--
-- Three of a member may be open at a time, and an organisation has a thousand in all: the oldest that are not open go. Those that
-- are made at the same instant do not see one another, so there may be a few more. What has lapsed is not open.
--
-- Answers 'made', 'unknown', 'subject', 'soon', 'no_limit', 'below', 'many', 'full'.
create or replace function request_budget(
    p_request uuid, p_org uuid, p_user uuid, p_key uuid, p_level text, p_period text, p_credits bigint, p_until timestamptz,
    p_reason text
) returns text language plpgsql as $$
declare
    v_now     constant timestamptz := clock_timestamp();
    v_team    uuid;
    v_subject uuid;
    v_limit   bigint;
    v_most    constant bigint := 1000;
begin
    select member.team_id into v_team from app_user member join org on org.org_id = member.org_id
    where member.user_id = p_user and member.org_id = p_org and member.deleted_at is null and org.deleted_at is null
    for no key update of member;
    if not found then return 'unknown'; end if;
    v_subject := case p_level when 'key' then p_key when 'user' then p_user when 'team' then v_team else p_org end;
    if v_subject is null then return 'subject'; end if;
    if p_until < v_now + interval '1 hour' then return 'soon'; end if;
    select counts.cap into v_limit from budget_of(p_org, p_level, v_subject, p_period, v_now) counts;
    if v_limit is null then return 'no_limit'; end if;
    if p_credits <= v_limit then return 'below'; end if;
    if (select count(*) from budget_request mine
        where mine.user_id = p_user and mine.state = 'open' and mine.until > v_now) >= 3
    then return 'many'; end if;
    if (select count(*) from (select from budget_request known where known.org_id = p_org limit v_most) kept) >= v_most then
        delete from budget_request oldest where oldest.request_id = (
            select closed.request_id from budget_request closed
            where closed.org_id = p_org and (closed.state <> 'open' or closed.until <= v_now)
            order by closed.request_id limit 1);
        if not found then return 'full'; end if;
    end if;
    insert into budget_request (request_id, org_id, user_id, level, subject_id, period, credits, until, reason)
    values (p_request, p_org, p_user, p_level, v_subject, p_period, p_credits, p_until, p_reason);
    return 'made';
end $$;
