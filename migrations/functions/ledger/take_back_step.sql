-- Takes back what settle_by_hand or adopt_task recorded, once for each idempotency key, as long as the vendor has not reported the
-- end: the vendor's id is free again, and nothing of what the vendor said about it is kept. A task that was in doubt is in doubt
-- again; one that had ended stands as it ended, and so does one that was written off since; one that was adopted is released. An
-- id that was known before stays.
-- p_reply: the answer but for the field "state".
--
-- outcome: 'taken_back'; 'unchanged' (no step by hand can be taken back); 'replayed' (answer: what was stored), 'key_reused',
-- 'in_progress'.
create or replace function take_back_step(
    p_endpoint text, p_key text, p_fingerprint bytea, p_org uuid, p_hold uuid, p_reason text, p_reply jsonb,
    out outcome text, out answer text
) language plpgsql as $$
declare
    v_who   constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
    v_mark  jsonb;
    v_open  record;
    v_state text;
begin
    select claim.verdict, claim.answer into outcome, answer from claim_once(p_endpoint, p_key, p_fingerprint, p_hold) claim;
    if outcome <> 'fresh' then return; end if;
    -- First the balance row, as every writer.
    perform 1 from org_balance balance where balance.org_id = p_org for no key update;
    select open.state, open.reopened, open.upstream_task, open.account, open.by_hand,
           coalesce((open.by_hand -> 'known')::boolean, false) as known,
           coalesce((open.by_hand -> 'adopted')::boolean, false) as adopted
    into v_open
    from open_task open where open.org_id = p_org and open.hold_id = p_hold for no key update;
    if not found then
        -- It was written off, or given up, because the vendor never reported the end.
        select held.state, true as reopened, held.upstream_task, held.account, held.by_hand,
               coalesce((held.by_hand -> 'known')::boolean, false) as known, false as adopted
        into v_open
        from hold held
        where held.org_id = p_org and held.hold_id = p_hold
          and (held.late = 'given_up' or held.late is null and held.state = 'WRITTEN_OFF');
    end if;
    if v_open.by_hand is null or v_open.by_hand ? 'taken_back' then
        outcome := 'unchanged';
        perform end_claim(p_endpoint, p_key, null);
        return;
    end if;
    v_mark := v_open.by_hand || jsonb_build_object('taken_back', p_reason);
    v_state := case when v_open.adopted then 'RELEASED' else 'IN_DOUBT' end;
    if not v_open.known then
        -- What the vendor reported was about another task.
        update open_task open set raw_consumed = null, reported = null where open.org_id = p_org and open.hold_id = p_hold;
        delete from vendor_task known where known.upstream_task = v_open.upstream_task and known.account = v_open.account
            and known.org_id = p_org and known.hold_id = p_hold;
        update content told set last = null, ended = false, updated_at = now()
        where told.org_id = p_org and told.hold_id = p_hold and told.last is not null;
    end if;
    if v_open.reopened then
        delete from open_task open where open.org_id = p_org and open.hold_id = p_hold;
        update hold set late = null, by_hand = v_mark, reason = p_reason,
                        upstream_task = case when v_open.known then hold.upstream_task end
        where hold.org_id = p_org and hold.hold_id = p_hold
        returning hold.state into v_state;
    elsif v_open.adopted or v_open.state = 'RUNNING' then
        perform transition_batch(array[p_org], array[1], array[p_hold],
                                 array[case when v_open.adopted then 'fail' else 'doubt' end], array[null::text],
                                 array[null::bigint], array[null::bigint], array[null::bigint], array[0::bigint],
                                 array[false], array[p_reason], array[null::text], array[null::text], array[600000::bigint],
                                 null);
    end if;
    if v_open.adopted then
        update hold set upstream_task = null, by_hand = v_mark where hold.org_id = p_org and hold.hold_id = p_hold;
    else
        update open_task open set
            by_hand = v_mark, reason = p_reason,
            upstream_task = case when v_open.known then open.upstream_task end,
            -- a task without an id cannot be asked about: it is never due
            due_at = case when v_open.known then open.due_at else 'infinity' end
        where open.org_id = p_org and open.hold_id = p_hold;
    end if;
    insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, before, after)
    values (coalesce(v_who ->> 'actor', 'database:' || session_user), v_who ->> 'address',
            coalesce(v_who ->> 'action', 'hold.take_back'), v_who ->> 'request_id', 'hold', p_hold::text, p_org,
            jsonb_build_object('task_id', v_open.upstream_task, 'state', v_open.state),
            jsonb_build_object('task_id', v_open.upstream_task, 'state', v_state, 'taken_back', p_reason));
    outcome := 'taken_back';
    answer := p_reply || jsonb_build_object('state', v_state);
    perform end_claim(p_endpoint, p_key, answer);
end $$;
