-- Lets the creates of an organisation go on that were stopped, begins its count of exposure at 0, and says so in the audit
-- log: the columns change too often for a trigger.
--
-- outcome: 'resumed', 'unknown_org'.
create or replace function resume_creates(p_org uuid, p_reason text, out outcome text) language plpgsql as $$
declare
    v_who constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
    v_before jsonb;
begin
    select jsonb_build_object('stopped_at', balance.stopped_at, 'exposure_since', balance.exposure_since,
                              'exposure_lost', balance.exposure_lost, 'exposure_in_doubt', balance.exposure_in_doubt,
                              'exposure_overrun', balance.exposure_overrun)
    into v_before
    from org_balance balance where balance.org_id = p_org for no key update;
    if not found then outcome := 'unknown_org'; return; end if;
    update org_balance balance
    set exposure_since = clock_timestamp(), exposure_lost = 0, exposure_in_doubt = 0, exposure_overrun = 0, stopped_at = null
    where balance.org_id = p_org;
    insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, before, after)
    values (coalesce(v_who ->> 'actor', 'database:' || session_user), v_who ->> 'address',
            coalesce(v_who ->> 'action', 'org.resume'), v_who ->> 'request_id', 'org', p_org::text, p_org, v_before,
            jsonb_build_object('stopped_at', null, 'reason', p_reason));
    outcome := 'resumed';
end $$;
