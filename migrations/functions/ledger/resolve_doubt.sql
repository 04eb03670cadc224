-- Ends a doubt by what an operator found out, once for each idempotency key, and says so in the audit log: holds change too
-- often for a trigger. p_answer: for the audit log, the vendor's id of the task and what the vendor said of it, as fields of a
-- JSON object; null: none. p_reply: what the operator is answered.
--
-- outcome: 'resolved', 'unchanged' (the hold is not in doubt any more); 'replayed' (answer: what was stored), 'key_reused',
-- 'in_progress'.
create or replace function resolve_doubt(
    p_endpoint text, p_key text, p_fingerprint bytea, p_org uuid, p_hold uuid, p_kind text, p_task text, p_raw bigint,
    p_reported bigint, p_charge bigint, p_reason text, p_answer text, p_due_ms bigint, p_reply text,
    out outcome text, out answer text
) language plpgsql as $$
declare
    v_who constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
begin
    select claim.verdict, claim.answer into outcome, answer from claim_once(p_endpoint, p_key, p_fingerprint, p_hold) claim;
    if outcome <> 'fresh' then return; end if;
    select step.outcome[1] into outcome
    from transition_batch(array[p_org], array[1], array[p_hold], array[p_kind], array[p_task], array[p_raw],
                          array[p_reported], array[p_charge], array[0::bigint], array[false], array[p_reason],
                          array[null::text], array[null::text], array[p_due_ms], null) step;
    if outcome = 'applied' then
        outcome := 'resolved';
        answer := p_reply;
        insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, after)
        values (coalesce(v_who ->> 'actor', 'database:' || session_user), v_who ->> 'address',
                coalesce(v_who ->> 'action', 'hold.' || p_kind), v_who ->> 'request_id', 'hold', p_hold::text, p_org,
                jsonb_build_object('step', p_kind, 'reason', p_reason) || coalesce(p_answer::jsonb, '{}'));
    end if;
    perform end_claim(p_endpoint, p_key, answer);
end $$;
