-- transition_batch for the ledger profile "two-commit"; reserve_batch_two_commits says how it works.
--
-- CALL it outside of a transaction only.
create or replace procedure transition_batch_two_commits(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_reported bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
    p_reason text[], p_data text[], p_answer text[], p_due_ms bigint[], p_now timestamptz, p_wait boolean,
    inout outcome text[]
) language plpgsql as $$
begin
    set local synchronous_commit = off;
    select moved.outcome into outcome
    from transition_batch(p_orgs, p_pos, p_hold, p_kind, p_task, p_raw, p_reported, p_charge, p_loss, p_possible,
                          p_reason, p_data, p_answer, p_due_ms, p_now, p_wait) moved;
    commit;
    -- What was left alone because a row is locked rests on nothing that could be lost.
    if not outcome <@ array['busy'] then
        perform pg_logical_emit_message(true, 'tollgate', '');
    end if;
end $$;
