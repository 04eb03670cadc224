-- The ledger profile "two-commit": the same two calls of a lane, with the same arrays and the same verdicts, but the
-- rows are let go of before the disk is waited for.
--
-- The first commit does not wait: it frees the balance row. The second one writes a message into the write-ahead log,
-- behind the first, and its commit waits for the disk, and for the synchronous standby if there is one. Nothing is
-- answered before that. A repeated call passes the second commit too, even if it finds everything done: what it found
-- may not be durable yet.
--
-- CALL them outside of a transaction only.

create procedure reserve_batch_two_commits(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz,
    inout verdict integer[], inout available bigint[], inout reference uuid[]
) language plpgsql as $$
begin
    set local synchronous_commit = off;
    select r.verdict, r.available, r.reference into verdict, available, reference
    from reserve_batch(p_orgs, p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend,
                       p_account, p_fingerprint, p_idem, p_keyed, p_guard, p_owner, p_max_open, p_lease_ms, p_resend,
                       p_now) r;
    commit;
    -- Refusals for want of an organisation, credits or room rest on nothing that could be lost.
    if not verdict <@ array[0, 2, 3] then
        perform pg_logical_emit_message(true, 'tollgate', '');
    end if;
end $$;

create procedure transition_batch_two_commits(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_reported bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
    p_reason text[], p_data text[], p_answer text[], p_due_ms bigint[], p_now timestamptz,
    inout applied boolean[]
) language plpgsql as $$
begin
    set local synchronous_commit = off;
    select t.applied into applied
    from transition_batch(p_orgs, p_pos, p_hold, p_kind, p_task, p_raw, p_reported, p_charge, p_loss, p_possible,
                          p_reason, p_data, p_answer, p_due_ms, p_now) t;
    commit;
    perform pg_logical_emit_message(true, 'tollgate', '');
end $$;

-- Migrations only add, so older gateways go on running. One that has to take something away says so here, in its own
-- text: insert into schema_requirement values (<its number>, '<why>'). A gateway that does not know that migration then
-- refuses to start, and is not ready any more.
create table schema_requirement (
    -- gateways that do not know this migration can no longer run
    needs_migration bigint primary key,
    reason          text not null
);
