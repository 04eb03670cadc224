-- Moves credits from one organisation to another, once for each idempotency key. p_answer is the answer but for the two
-- balances.
--
-- outcome: those of post_entry; then org_id is the organisation that it is about. 'replayed' (answer: what was stored),
-- 'key_reused', 'in_progress'.
create or replace function transfer_once(
    p_endpoint text, p_key text, p_fingerprint bytea, p_from uuid, p_from_entry uuid, p_to uuid, p_to_entry uuid,
    p_amount bigint, p_reason text, p_external_ref text, p_actor text, p_answer jsonb,
    out outcome text, out org_id uuid, out available bigint, out answer text
) language plpgsql as $$
declare
    v_from_available bigint;
begin
    select claim.verdict, claim.answer into outcome, answer
    from claim_once(p_endpoint, p_key, p_fingerprint, p_from_entry) claim;
    if outcome <> 'fresh' then return; end if;
    begin
        -- Every writer locks balances in this order.
        perform from org_balance balance where balance.org_id in (p_from, p_to) order by balance.org_id for no key update;
        org_id := p_from;
        select posted.outcome, posted.available into outcome, available
        from post_entry(p_from, p_from_entry, 'transfer', -p_amount, p_reason, p_external_ref, null, p_to_entry, p_actor,
                        null) posted;
        if outcome = 'posted' then
            v_from_available := available;
            org_id := p_to;
            select posted.outcome, posted.available into outcome, available
            from post_entry(p_to, p_to_entry, 'transfer', p_amount, p_reason, p_external_ref, null, p_from_entry, p_actor,
                            null) posted;
        end if;
        -- neither half without the other
        if outcome <> 'posted' then raise exception 'refused' using errcode = 'TG001'; end if;
        answer := p_answer || jsonb_build_object('from_available', v_from_available, 'to_available', available);
    exception when sqlstate 'TG001' then
        answer := null;
    end;
    perform end_claim(p_endpoint, p_key, answer);
end $$;
