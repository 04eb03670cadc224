-- Claims the next poll of one task, if it is due and nobody else has it, and moves the one after it away: so many
-- milliseconds, longer with each poll, and jittered; of a task in doubt ten minutes at least. Returns what is known of it, or
-- no state where it was not claimed.
--
-- One task a call, and each by its whole key. `open_task` is empty at quiet times: whenever its statistics were taken then, a
-- join with it is planned as if it had no rows, and reads all of them for each batch.
create or replace function claim_open_task(
    p_org uuid, p_hold uuid, p_again_ms bigint,
    out open_state text, out reopened boolean, out upstream_task text, out raw_consumed bigint, out reason text,
    out recorded_at timestamptz, out polls integer, out by_hand jsonb
) language plpgsql as $$
begin
    perform from open_task open
    where open.org_id = p_org and open.hold_id = p_hold and open.due_at <= now() for no key update skip locked;
    if not found then
        return;
    end if;
    update open_task open set
        polls = open.polls + 1,
        due_at = now() + (case when open.state = 'RUNNING' then p_again_ms * (1 + least(open.polls, 4))
                               else greatest(p_again_ms, 600000) end) * (0.75 + random() / 2) * interval '1 millisecond'
    where open.org_id = p_org and open.hold_id = p_hold
    returning open.state, open.reopened, open.upstream_task, open.raw_consumed, open.reason, open.recorded_at, open.polls,
              open.by_hand
    into open_state, reopened, upstream_task, raw_consumed, reason, recorded_at, polls, by_hand;
end $$;
