-- Moves one open task from a state that goes on to another, if it still is in the first. Returns the account that runs it,
-- or null where nothing was done.
--
-- One task a call, and each by its whole key. `open_task` is empty at quiet times: whenever its statistics were taken then, a
-- join with it is planned as if it had no rows, and reads all of them for each batch.
create or replace function step_open_task(
    p_org uuid, p_hold uuid, p_from text, p_to text, p_kind text, p_task text, p_raw bigint, p_reported bigint,
    p_reason text, p_guarded bytea, p_due_ms bigint, p_now timestamptz
) returns text language plpgsql as $$
declare
    v_account text;
begin
    update open_task open set
        state = p_to,
        upstream_task = coalesce(open.upstream_task, p_task),
        raw_consumed = coalesce(p_raw, open.raw_consumed),
        reported = coalesce(p_reported, open.reported),
        reason = coalesce(p_reason, open.reason),
        recorded_at = case when p_kind = 'run' then p_now else open.recorded_at end,
        doubt_at = case when p_to = 'IN_DOUBT' then p_now else open.doubt_at end,
        unanswered = null,
        guarded = case when p_to = 'IN_DOUBT' then p_guarded end,
        -- a task without an id cannot be asked about: it is never due
        due_at = case when p_to = 'IN_DOUBT' and open.upstream_task is null then 'infinity'
                      else p_now + coalesce(p_due_ms, 0) * interval '1 millisecond' end,
        polls = case when p_kind = 'run' then 0 else open.polls end
    -- not by an operator that a partial index could be chosen by
    where open.org_id = p_org and open.hold_id = p_hold and open.state is not distinct from p_from
    returning open.account into v_account;
    return v_account;
end $$;
