-- Records that a task in doubt, or one that came to light after its end, is the vendor's task p_task, once for each idempotency
-- key: an operator said so, and it was compared with what the vendor says (p_by_hand, which is kept with the task and in the
-- audit log). It is polled to its end from now on, and take_back_step can take this back until then. p_kind: the kind of the
-- step. p_reply: what the operator is answered.
--
-- outcome: those of resolve_doubt.
create or replace function settle_by_hand(
    p_endpoint text, p_key text, p_fingerprint bytea, p_org uuid, p_hold uuid, p_kind text, p_task text, p_reason text,
    p_by_hand jsonb, p_reply text,
    out outcome text, out answer text
) language plpgsql as $$
declare
    v_who constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
begin
    select claim.verdict, claim.answer into outcome, answer from claim_once(p_endpoint, p_key, p_fingerprint, p_hold) claim;
    if outcome <> 'fresh' then return; end if;
    select step.outcome[1] into outcome
    from transition_batch(array[p_org], array[1], array[p_hold], array[p_kind], array[p_task], array[null::bigint],
                          array[null::bigint], array[null::bigint], array[0::bigint], array[false], array[p_reason],
                          array[null::text], array[null::text], array[0::bigint], null) step;
    if outcome = 'applied' then
        outcome := 'resolved';
        answer := p_reply;
        update open_task open set by_hand = p_by_hand where open.org_id = p_org and open.hold_id = p_hold;
        insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, after)
        values (coalesce(v_who ->> 'actor', 'database:' || session_user), v_who ->> 'address',
                coalesce(v_who ->> 'action', 'hold.' || p_kind), v_who ->> 'request_id', 'hold', p_hold::text, p_org,
                jsonb_build_object('step', p_kind) || p_by_hand);
    end if;
    perform end_claim(p_endpoint, p_key, answer);
end $$;
