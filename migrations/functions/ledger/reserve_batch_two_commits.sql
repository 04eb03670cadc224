-- reserve_batch for the ledger profile "two-commit": the same arrays and verdicts, but the balance rows are let go of
-- before the disk is waited for.
--
-- The first commit does not wait: it frees the balance rows. The second transaction writes a message into the write-ahead
-- log, behind the first, and its commit waits for the disk, and for the synchronous standby if there is one. Nothing is
-- answered before that. A repeated call passes the second commit too, even if it finds everything done: what it found may
-- not be durable yet.
--
-- CALL it outside of a transaction only.
create or replace procedure reserve_batch_two_commits(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz, p_wait boolean,
    inout verdict text[], inout available bigint[], inout reference uuid[]
) language plpgsql as $$
begin
    set local synchronous_commit = off;
    select reserved.verdict, reserved.available, reserved.reference into verdict, available, reference
    from reserve_batch(p_orgs, p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend,
                       p_account, p_fingerprint, p_idem, p_keyed, p_guard, p_owner, p_max_open, p_lease_ms, p_resend,
                       p_now, p_wait) reserved;
    commit;
    -- Refusals for want of an organisation, credits, room, a budget or a free row rest on nothing that could be lost; nor
    -- does one of a stopped organisation promise anything.
    if not verdict <@ array['unknown_org', 'stopped', 'insufficient', 'too_many_tasks', 'over_budget', 'busy'] then
        perform pg_logical_emit_message(true, 'tollgate', '');
    end if;
end $$;
