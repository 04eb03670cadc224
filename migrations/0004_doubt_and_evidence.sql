-- Doubts that end by age, evidence that comes after an end, and what the upstream reported beside what we booked.
--
-- Replicas that know only the migrations before this one go on: they call the fourteen-argument transition_batch,
-- which is now a way into the new one.

alter table hold
    -- when the doubt began; null for doubts older than this column
    add column doubt_at timestamptz,
    -- evidence after the end: its task id is known and it is polled ('open'), it was charged by a correcting entry
    -- ('charged'), it is the platform's loss ('lost'), or it never ended ('given_up')
    add column late text check (late in ('open', 'charged', 'lost', 'given_up')),
    -- the upstream's last figure, as it stood in its answers
    add column reported bigint,
    -- what we booked (charge or loss, before the factor) less what the upstream reported; null while it is open
    add column drift bigint,
    add constraint hold_late_after_end check (late is null or state in ('RELEASED', 'WRITTEN_OFF'))
        -- true of every row there is: none of them is late
        not valid;

-- Each open hold stands in one of them. Tasks are claimed organisation by organisation and backend by backend, so that
-- none waits for the backlog of another.
create index hold_unrecorded on hold (owner, due_at) where state = 'HELD';
create index hold_pollable on hold (org_id, backend, due_at)
    where state = 'RUNNING' or (state = 'IN_DOUBT' and upstream_task is not null);
create index hold_late on hold (due_at) where late = 'open';
create index hold_drift on hold (ended_at) where drift <> 0;
drop index hold_due;

-- Nearly free to keep: rows are added in the order of their age.
create index idempotency_age on idempotency using brin (created_at);

alter table transition
    add column from_late text,
    add column to_late text;
insert into transition (kind, from_state, to_state, from_late, to_late) values
    -- its gateway is dead; what was recorded since it was seen HELD is left alone
    ('orphan',      'HELD',        'IN_DOUBT',    null,   null),
    -- the id of a task comes to light after its end
    ('late_run',    'RELEASED',    'RELEASED',    null,   'open'),
    ('late_run',    'WRITTEN_OFF', 'WRITTEN_OFF', null,   'open'),
    -- it succeeded: its tenant gets it, and is charged by a correcting entry
    ('late_settle', 'RELEASED',    'RELEASED',    'open', 'charged'),
    ('late_settle', 'WRITTEN_OFF', 'WRITTEN_OFF', 'open', 'charged'),
    ('late_fail',   'RELEASED',    'RELEASED',    'open', 'lost'),
    ('late_fail',   'WRITTEN_OFF', 'WRITTEN_OFF', 'open', 'lost'),
    ('late_drop',   'RELEASED',    'RELEASED',    'open', 'given_up'),
    ('late_drop',   'WRITTEN_OFF', 'WRITTEN_OFF', 'open', 'given_up');

-- A sum as a credit figure; what does not fit is as large as can be. One absurd report must not hide all others.
create function saturated(p_sum numeric) returns bigint language sql immutable as $$
    select greatest(least(coalesce(p_sum, 0), 9223372036854775807), -9223372036854775807)::bigint
$$;

-- As before (migration 2), and: p_reported, the upstream's own figure; evidence after the end, which moves no state
-- but adds a correcting entry, and takes back what was booked as a loss; a task id, once known, is never replaced.
create function transition_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_reported bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
    p_reason text[], p_data text[], p_answer text[], p_due_ms bigint[], p_now timestamptz,
    out applied boolean[]
) language plpgsql as $$
declare
    v_now constant timestamptz := coalesce(p_now, clock_timestamp());
    v_done bigint[];
begin
    perform 1 from unnest(p_orgs) with ordinality t(org_id, pos)
    join org_balance b on b.org_id = t.org_id order by t.pos for no key update of b;

    with item as materialized (
        select p_orgs[i.pos] as org_id, i.*
        from unnest(p_pos, p_hold, p_kind, p_task, p_raw, p_reported, p_charge, p_loss, p_possible, p_reason, p_data,
                    p_answer, p_due_ms)
             with ordinality i(pos, hold_id, kind, task, raw, reported, charge, loss, possible, reason, data, answer,
                               due_ms, ord)
    ), moved as (
        update hold h set
            state = t.to_state,
            late = t.to_late,
            upstream_task = coalesce(h.upstream_task, i.task),
            raw_consumed = coalesce(i.raw, h.raw_consumed),
            reported = coalesce(i.reported, h.reported),
            drift = case
                when t.kind in ('settle', 'late_settle') then i.raw - coalesce(i.reported, h.reported, 0)
                when t.kind in ('fail', 'late_fail') then coalesce(i.loss, 0) - coalesce(i.reported, h.reported, 0)
                -- what may have been taken is no drift where nothing was reported
                when t.kind = 'write_off' and h.reported is not null then i.loss - h.reported
                when t.to_state in ('RELEASED', 'WRITTEN_OFF') then coalesce(h.drift, 0) end,
            charged = case when t.to_state = 'SETTLED' then i.charge end,
            reason = coalesce(i.reason, h.reason),
            data = coalesce(i.data, h.data),
            recorded_at = case when t.kind in ('run', 'late_run') then v_now else h.recorded_at end,
            doubt_at = case when t.to_state = 'IN_DOUBT' then v_now else h.doubt_at end,
            ended_at = case when t.to_state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF') then coalesce(h.ended_at, v_now) end,
            -- what nobody can be asked about is never due
            due_at = case when t.to_state = 'IN_DOUBT' and h.upstream_task is null then 'infinity'
                          else v_now + coalesce(i.due_ms, 0) * interval '1 millisecond' end,
            polls = case when t.kind in ('run', 'late_run') then 0 else h.polls end
        from item i join transition t on t.kind = i.kind
        where h.org_id = i.org_id and h.hold_id = i.hold_id and h.state = t.from_state
          and h.late is not distinct from t.from_late
          and (i.task is null or h.upstream_task is null or h.upstream_task = i.task)
        returning h.org_id, h.hold_id, h.user_id, h.key_id, h.amount, h.idem_key, t.kind, t.from_state, t.to_state,
                  t.from_late, 'generate'::text as endpoint, i.charge, i.loss, i.possible, i.reason, i.answer, i.ord,
                  -- an end, and not evidence that came after it
                  t.from_state in ('HELD', 'RUNNING', 'IN_DOUBT')
                      and t.to_state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF') as ends
    ), consumed as (
        insert into entry (org_id, entry_id, kind, amount, hold_id, overrun, user_id, key_id, reason, created_at)
        select org_id, hold_id, 'consume', -charge, hold_id, greatest(charge - amount, 0), user_id, key_id, null, v_now
        from moved where to_state = 'SETTLED'
    ), corrected as (
        insert into entry (org_id, entry_id, kind, amount, hold_id, seq, overrun, user_id, key_id, reason, created_at)
        select m.org_id, gen_random_uuid(), 'correct', -m.charge, m.hold_id, c.next, greatest(m.charge - m.amount, 0), m.user_id, m.key_id, m.reason, v_now
        from moved m cross join lateral (
            select coalesce(max(e.seq), 0) + 1 as next from entry e
            where e.org_id = m.org_id and e.hold_id = m.hold_id and e.kind = 'correct') c
        where m.kind = 'late_settle'
    ), lost as (
        insert into platform_loss (org_id, hold_id, seq, amount, possible, reason, created_at)
        select org_id, hold_id, 0, loss, coalesce(possible, false), coalesce(reason, kind), v_now
        from moved where ends and loss <> 0
        union all
        -- what the end booked is taken back
        select m.org_id, m.hold_id, p.place, -p.booked, p.possible, 'it came to light after its end', v_now
        from moved m cross join lateral (
            select l.possible, sum(l.amount)::bigint as booked,
                   (max(max(l.seq)) over () + row_number() over ())::integer as place
            from platform_loss l where l.org_id = m.org_id and l.hold_id = m.hold_id group by l.possible) p
        where m.from_late = 'open' and m.kind in ('late_settle', 'late_fail') and p.booked <> 0
        union all
        -- behind the two rows above
        select m.org_id, m.hold_id, p.next + 3, m.loss, false, coalesce(m.reason, m.kind), v_now
        from moved m cross join lateral (
            select coalesce(max(l.seq), 0) as next from platform_loss l
            where l.org_id = m.org_id and l.hold_id = m.hold_id) p
        where m.kind = 'late_fail' and m.loss <> 0
    ), answered as (
        update idempotency c set status = 200, answer = m.answer
        from moved m
        where m.answer is not null and m.idem_key is not null
          and c.org_id = m.org_id and c.endpoint = m.endpoint and c.key = m.idem_key and c.hold_id = m.hold_id
    ), freed as (
        delete from idempotency c using moved m
        where m.kind in ('refuse', 'abandon', 'sweep') and m.idem_key is not null
          and c.org_id = m.org_id and c.endpoint = m.endpoint and c.key = m.idem_key and c.hold_id = m.hold_id
    ), balanced as (
        update org_balance b
        set available = b.available + d.freed - d.charged,
            held = b.held - d.freed,
            consumed = b.consumed + d.charged,
            open_tasks = b.open_tasks + d.open,
            in_doubt = b.in_doubt + d.doubt
        from (select org_id,
                     coalesce(sum(amount) filter (where ends), 0)::bigint as freed,
                     coalesce(sum(charge) filter (where to_state = 'SETTLED' or kind = 'late_settle'), 0)::bigint as charged,
                     (count(*) filter (where to_state = 'RUNNING' and from_state = 'IN_DOUBT')
                      - count(*) filter (where from_state in ('HELD', 'RUNNING') and to_state <> 'RUNNING'))::integer as open,
                     (count(*) filter (where to_state = 'IN_DOUBT')
                      - count(*) filter (where from_state = 'IN_DOUBT'))::integer as doubt
              from moved group by org_id) d
        where b.org_id = d.org_id
    )
    select coalesce(array_agg(ord), '{}') into v_done from moved;

    applied := array_fill(false, array[cardinality(p_hold)]);
    for i in 1..cardinality(v_done) loop
        applied[v_done[i]] := true;
    end loop;
end $$;

-- For replicas of before.
create or replace function transition_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
    p_reason text[], p_data text[], p_answer text[], p_due_ms bigint[], p_now timestamptz,
    out applied boolean[]
) language sql as $$
    select t.applied from transition_batch(p_orgs, p_pos, p_hold, p_kind, p_task, p_raw, p_raw, p_charge, p_loss,
        p_possible, p_reason, p_data, p_answer, p_due_ms, p_now) t
$$;
