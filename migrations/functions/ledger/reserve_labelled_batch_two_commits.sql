-- reserve_labelled_batch for the ledger profile "two-commit"; reserve_batch_two_commits says how it works.
--
-- CALL it outside of a transaction only.
create or replace procedure reserve_labelled_batch_two_commits(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz, p_wait boolean,
    p_labelled integer[], p_name text[], p_value text[],
    inout verdict text[], inout available bigint[], inout reference uuid[]
) language plpgsql as $$
begin
    set local synchronous_commit = off;
    select reserved.verdict, reserved.available, reserved.reference into verdict, available, reference
    from reserve_labelled_batch(p_orgs, p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend,
                                p_account, p_fingerprint, p_idem, p_keyed, p_guard, p_owner, p_max_open, p_lease_ms, p_resend,
                                p_now, p_wait, p_labelled, p_name, p_value) reserved;
    commit;
    if not verdict <@ array['unknown_org', 'stopped', 'insufficient', 'too_many_tasks', 'over_budget', 'busy'] then
        perform pg_logical_emit_message(true, 'tollgate', '');
    end if;
end $$;
