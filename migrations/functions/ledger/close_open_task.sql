-- Removes one open task that has come to its end, if it still is in this state, and returns what was known of it.
-- One task a call, for the reason that `step_open_task` gives.
create or replace function close_open_task(
    p_org uuid, p_hold uuid, p_state text,
    out closed boolean, out upstream_task text, out raw_consumed bigint, out reported bigint, out reason text,
    out recorded_at timestamptz, out doubt_at timestamptz, out by_hand jsonb
) language plpgsql as $$
begin
    delete from open_task open
    where open.org_id = p_org and open.hold_id = p_hold and open.state is not distinct from p_state
    returning true, open.upstream_task, open.raw_consumed, open.reported, open.reason, open.recorded_at, open.doubt_at,
              open.by_hand
    into closed, upstream_task, raw_consumed, reported, reason, recorded_at, doubt_at, by_hand;
end $$;
