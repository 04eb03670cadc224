-- Posts a grant or a correction, once for each idempotency key: claim, entry and stored answer are one statement of its
-- caller. p_answer is the answer but for the figure `available`.
--
-- outcome: those of post_entry; 'replayed' (answer: what was stored), 'key_reused', 'in_progress'.
create or replace function post_entry_once(
    p_endpoint text, p_key text, p_fingerprint bytea, p_org uuid, p_entry uuid, p_kind text, p_amount bigint, p_reason text,
    p_external_ref text, p_expires_at timestamptz, p_actor text, p_answer jsonb,
    out outcome text, out available bigint, out answer text
) language plpgsql as $$
begin
    select claim.verdict, claim.answer into outcome, answer
    from claim_once(p_endpoint, p_key, p_fingerprint, p_entry) claim;
    if outcome <> 'fresh' then return; end if;
    select posted.outcome, posted.available into outcome, available
    from post_entry(p_org, p_entry, p_kind, p_amount, p_reason, p_external_ref, p_expires_at, null, p_actor, null) posted;
    if outcome = 'posted' then
        answer := p_answer || jsonb_build_object('available', available);
    end if;
    perform end_claim(p_endpoint, p_key, answer);
end $$;
