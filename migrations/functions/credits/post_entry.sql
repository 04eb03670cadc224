-- Posts one entry that is not a task's, under the organisation's balance row. p_related: of a transfer its other half.
-- Credits that are taken back may use the overdraft; credits that are given to another organisation may not.
--
-- outcome: 'posted', 'unknown_org', 'deleted_org', 'in_the_past' (p_expires_at), 'insufficient'. available: after the entry,
-- or what was there.
create or replace function post_entry(
    p_org uuid, p_entry uuid, p_kind text, p_amount bigint, p_reason text, p_external_ref text, p_expires_at timestamptz,
    p_related uuid, p_actor text, p_now timestamptz,
    out outcome text, out available bigint
) language plpgsql as $$
declare
    v_now       timestamptz;
    v_overdraft bigint;
    v_granted   bigint;
    v_consumed  bigint;
begin
    select balance.available, balance.overdraft, balance.granted, balance.consumed
    into available, v_overdraft, v_granted, v_consumed
    from org_balance balance where balance.org_id = p_org for no key update;
    if not found then outcome := 'unknown_org'; return; end if;
    -- not before the wait for the row: entries of an organisation are dated in the order they are committed in
    v_now := coalesce(p_now, clock_timestamp());
    if exists (select from org where org.org_id = p_org and org.deleted_at is not null) then
        outcome := 'deleted_org'; return;
    end if;
    if p_expires_at <= v_now then outcome := 'in_the_past'; return; end if;
    if p_amount < 0 and available + p_amount < (case p_kind when 'transfer' then 0 else -v_overdraft end) then
        outcome := 'insufficient'; return;
    end if;
    if p_expires_at is not null then
        insert into credit_pool (org_id, credits) values (p_org, v_granted - v_consumed) on conflict do nothing;
    end if;
    insert into entry (org_id, entry_id, kind, amount, reason, external_ref, related_entry, actor, created_at)
    values (p_org, p_entry, p_kind, p_amount, p_reason, p_external_ref, p_related, p_actor, v_now);
    if p_expires_at is not null then
        insert into credit_lot (org_id, entry_id, amount, expires_at) values (p_org, p_entry, p_amount, p_expires_at);
        insert into credit_lot_event (org_id, entry_id, expires_at, burned) values (p_org, p_entry, p_expires_at, 0);
    end if;
    update org_balance balance set available = balance.available + p_amount, granted = balance.granted + p_amount
    where balance.org_id = p_org;
    outcome := 'posted'; available := available + p_amount;
end $$;
