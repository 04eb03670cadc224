-- Posts a grant or an adjustment with an idempotency key of its own kind. The same key and the same fingerprint: the first
-- entry again. outcome: 'posted', 'replayed', 'key_reused', 'unknown_org', 'insufficient'.
create or replace function post_credit(
    p_org uuid, p_entry uuid, p_kind text, p_amount bigint, p_reason text, p_actor text,
    p_idem text, p_fingerprint bytea,
    out outcome text, out entry_id uuid, out available bigint
) language plpgsql as $$
declare
    v_balance org_balance%rowtype;
    v_claim   idempotency%rowtype;
begin
    select * into v_balance from org_balance balance where balance.org_id = p_org for no key update;
    if not found then outcome := 'unknown_org'; return; end if;
    available := v_balance.available;
    if p_idem is not null then
        select * into v_claim from idempotency claim
        where claim.org_id = p_org and claim.endpoint = 'credit' and claim.key = p_idem;
        if found then
            outcome := case when v_claim.fingerprint = p_fingerprint then 'replayed' else 'key_reused' end;
            entry_id := v_claim.hold_id;
            return;
        end if;
    end if;
    if p_amount < 0 and v_balance.available + p_amount < -v_balance.overdraft then outcome := 'insufficient'; return; end if;
    insert into entry (org_id, entry_id, kind, amount, reason, actor, created_at)
    values (p_org, p_entry, p_kind, p_amount, p_reason, p_actor, clock_timestamp());
    update org_balance balance set available = balance.available + p_amount, granted = balance.granted + p_amount
    where balance.org_id = p_org;
    if p_idem is not null then
        insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, status, created_at)
        values (p_org, 'credit', p_idem, p_fingerprint, p_entry, 200, clock_timestamp());
    end if;
    outcome := 'posted'; entry_id := p_entry; available := v_balance.available + p_amount;
end $$;
