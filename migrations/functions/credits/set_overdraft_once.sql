-- Sets how far below zero an organisation may go, once for each idempotency key. p_answer is the answer but for the figure
-- `available`.
--
-- outcome: 'set', 'unknown_org', 'deleted_org'; 'replayed' (answer: what was stored), 'key_reused', 'in_progress'.
create or replace function set_overdraft_once(
    p_endpoint text, p_key text, p_fingerprint bytea, p_org uuid, p_overdraft bigint, p_answer jsonb,
    out outcome text, out answer text
) language plpgsql as $$
declare
    v_available bigint;
begin
    select claim.verdict, claim.answer into outcome, answer from claim_once(p_endpoint, p_key, p_fingerprint, p_org) claim;
    if outcome <> 'fresh' then return; end if;
    -- The balance row first, as everything does that locks both.
    select balance.available into v_available from org_balance balance where balance.org_id = p_org for no key update;
    if not found then
        outcome := 'unknown_org';
    else
        -- It is shown with the organisation: who edits that has to see it.
        update org set version = org.version where org.org_id = p_org and org.deleted_at is null;
        if found then
            update org_balance balance set overdraft = p_overdraft where balance.org_id = p_org;
            outcome := 'set';
            answer := p_answer || jsonb_build_object('available', v_available);
        else
            outcome := 'deleted_org';
        end if;
    end if;
    perform end_claim(p_endpoint, p_key, answer);
end $$;
