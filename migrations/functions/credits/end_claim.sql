-- Ends what claim_once began: keeps the answer of a call that was carried out (p_answer), or frees the key of one that was
-- refused (null).
create or replace function end_claim(p_endpoint text, p_key text, p_answer text) returns void language plpgsql as $$
declare
    v_nobody constant uuid := '00000000-0000-0000-0000-000000000000';
begin
    if p_answer is null then
        delete from idempotency claim where claim.org_id = v_nobody and claim.endpoint = p_endpoint and claim.key = p_key;
    else
        update idempotency claim set status = 200, answer = p_answer
        where claim.org_id = v_nobody and claim.endpoint = p_endpoint and claim.key = p_key;
    end if;
end $$;
