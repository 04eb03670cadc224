-- Claims the idempotency key of a call that moves money, or says what came of it earlier. The keys of operators stand under
-- the nil organisation; the fingerprint is of the body and of what the call was about. Waits for a call with the same key
-- that is under way, but not for long.
--
-- verdict: 'fresh' (go on; also where no key is given), 'replayed' (answer: what is stored), 'key_reused', 'in_progress'.
create or replace function claim_once(
    p_endpoint text, p_key text, p_fingerprint bytea, p_made uuid,
    out verdict text, out answer text
) language plpgsql as $$
declare
    v_nobody      constant uuid := '00000000-0000-0000-0000-000000000000';
    v_fingerprint bytea;
begin
    if p_key is null then verdict := 'fresh'; return; end if;
    begin
        insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, created_at)
        values (v_nobody, p_endpoint, p_key, p_fingerprint, p_made, now()) on conflict do nothing;
    exception when lock_not_available then
        verdict := 'in_progress'; return;
    end;
    if found then verdict := 'fresh'; return; end if;
    select claim.fingerprint, claim.answer into v_fingerprint, answer from idempotency claim
    where claim.org_id = v_nobody and claim.endpoint = p_endpoint and claim.key = p_key;
    -- one that is gone was forgotten this very moment: to be sent again
    verdict := case when not found then 'in_progress' when v_fingerprint <> p_fingerprint then 'key_reused' else 'replayed' end;
end $$;
