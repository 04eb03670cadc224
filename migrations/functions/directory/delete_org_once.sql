-- Deletes an organisation, if its version is still p_version (null: whatever it is), once for each idempotency key. All of it
-- is under the organisation's balance row: nothing is admitted, charged or granted between the look at the balance and the
-- deletion. Credits are moved to p_to, or forfeited where p_forfeit says so; unfinished tasks are never left behind.
--
-- outcome: 'deleted'; 'unfinished' (tasks: how many), 'credits' or 'owing' (credits: the balance), 'unchanged' (the
-- organisation is not there, or of another version), 'unknown_target', 'deleted_target'; 'replayed' (answer: what was stored),
-- 'key_reused', 'in_progress'. Of a deletion, credits is what was moved or forfeited.
create or replace function delete_org_once(
    p_endpoint text, p_key text, p_fingerprint bytea, p_org uuid, p_version integer, p_to uuid, p_forfeit boolean,
    p_entry uuid, p_to_entry uuid, p_reason text, p_actor text, p_answer jsonb,
    out outcome text, out credits bigint, out tasks integer, out answer text
) language plpgsql as $$
begin
    select claim.verdict, claim.answer into outcome, answer
    from claim_once(p_endpoint, p_key, p_fingerprint, p_entry) claim;
    if outcome <> 'fresh' then return; end if;
    begin
        -- Every writer locks balances in this order, and before the organisation's row.
        perform from org_balance balance where balance.org_id in (p_org, p_to) order by balance.org_id for no key update;
        select balance.available, balance.open_tasks + balance.in_doubt into credits, tasks
        from org_balance balance where balance.org_id = p_org;
        -- Tasks that came to light after their ends may be charged yet.
        tasks := tasks + (select count(*) from open_task again where again.org_id = p_org and again.reopened)::integer;
        perform from org where org.org_id = p_org and org.deleted_at is null and org.version = coalesce(p_version, org.version)
        for no key update;
        if not found then
            outcome := 'unchanged';
        elsif tasks > 0 then
            outcome := 'unfinished';
        elsif credits < 0 then
            outcome := 'owing';
        elsif p_to is not null and not exists (select from org target where target.org_id = p_to) then
            outcome := 'unknown_target';
        elsif exists (select from org target where target.org_id = p_to and target.deleted_at is not null) then
            outcome := 'deleted_target';
        elsif credits = 0 then
            outcome := 'posted';
        elsif p_to is not null then
            select posted.outcome into outcome
            from post_entry(p_org, p_entry, 'transfer', -credits, p_reason, null, null, p_to_entry, p_actor, null) posted;
            if outcome = 'posted' then
                select posted.outcome into outcome
                from post_entry(p_to, p_to_entry, 'transfer', credits, p_reason, null, null, p_entry, p_actor, null) posted;
            end if;
        elsif p_forfeit then
            select posted.outcome into outcome
            from post_entry(p_org, p_entry, 'adjust', -credits, p_reason, null, null, null, p_actor, null) posted;
        else
            outcome := 'credits';
        end if;
        -- no half of it without the rest
        if outcome <> 'posted' then raise exception 'refused' using errcode = 'TG001'; end if;
        update org_balance set deleted = true where org_balance.org_id = p_org;
        update org set deleted_at = clock_timestamp() where org.org_id = p_org;
        outcome := 'deleted';
        answer := p_answer || jsonb_build_object('credits', credits);
    exception when sqlstate 'TG001' then
        answer := null;
    end;
    perform end_claim(p_endpoint, p_key, answer);
end $$;
