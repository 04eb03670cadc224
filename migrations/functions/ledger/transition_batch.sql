-- Moves holds along the table `transition`, with their money, entries, budget windows and idempotency records. A lane makes
-- this one call. No hold may stand twice in one batch. p_orgs, p_pos, p_now as in reserve_batch.
--
-- outcome of each item: 'applied', or 'unchanged' where the hold is unknown or in no state that the kind starts from; it is
-- left alone then. So a second attempt at the same end changes nothing. 'busy': a row that it needs is locked by somebody
-- else, and nothing was done for this item.
--
-- p_wait: whether to wait for a row that somebody else has locked. A batch of many organisations must not, or all of them
-- wait for one. Such a batch records an accepted create (HELD to RUNNING) without the balance row, because that moves no
-- credit and no counter: the lock on the open task, and the state it must be in, are enough. These rows are locked last and
-- never waited for, so that they cannot be part of a deadlock.
--
-- A step that goes on changes the row of `open_task` alone; an end deletes it, and is what `hold` is updated with, once.
--
-- p_raw: what the task consumed, before the factor; p_reported: the upstream's own figure, as it stood in its answer;
-- p_charge: what the tenant pays; p_loss: what the platform loses, for sure or possibly (p_possible). Evidence that comes
-- after the end moves no state: it adds a correcting entry, and takes back what was booked as a loss. A task id, once
-- known, is never replaced: take_back_step alone forgets one. An end that names the id of its task (p_task) is no end of a hold
-- that has another id, or none any more. p_data and p_answer are not used any more.
--
-- Entries are dated under the balance row: none is older than one that was there before it, so that a reader who goes on
-- by time misses none.
--
-- Plans: `hold` has a partition for each month. Between the least and the greatest id of the batch there are one or two, and
-- because both are known before a statement begins, the others are not opened by it. What is read row by row is a lateral
-- subquery with a limit, and what is changed is named by its place in the table (ctid): a join by keys that is planned while
-- a table is small reads all of it for each batch ever after. No two lists as long as the batch are joined with each other.
--
-- Places: a balance row that we have locked keeps its place, and so do holds and budget windows, which nobody changes without it.
-- A task that goes on may be claimed (claim_open_task) between the look at it and its change: it has another place then, and is
-- looked at again.
create or replace function transition_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_reported bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
    p_reason text[], p_data text[], p_answer text[], p_due_ms bigint[], p_now timestamptz, p_wait boolean default true,
    out outcome text[]
) language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_now     timestamptz;
    -- the organisations whose balance rows are needed
    v_wanted  uuid[];
    -- of each organisation whose balance row we have: where the row is, the place of the last entry, and the balance after it
    v_at      tid[] := array_fill(null::tid, array[cardinality(p_orgs)]);
    v_place   bigint[] := array_fill(null::bigint, array[cardinality(p_orgs)]);
    v_balance bigint[] := v_place;
    -- the ids in their order
    v_sorted  uuid[];
    v_least   uuid;
    v_most    uuid;
    -- items that are done; those that a round has done, and how many it could have
    v_done    integer[] := '{}';
    v_moved   integer[];
    v_fitting bigint;
    -- budget windows that were to change and did not
    v_missed  bigint;
    -- open tasks that we have locked, and their items
    v_open    tid[];
    v_items   integer[];
    -- windows in which more was spent than had been held, by organisation
    v_grown   jsonb;
    v_item    integer;
    v_row     record;
begin
    outcome := array_fill('unchanged'::text, array[cardinality(p_hold)]);
    v_wanted := array(select distinct p_orgs[item.pos] from unnest(p_pos, p_kind) item(pos, kind)
                      where p_wait or item.kind <> 'run');
    v_sorted := array(select item.hold_id from unnest(p_hold) item(hold_id) order by item.hold_id);
    v_least := v_sorted[1]; v_most := v_sorted[cardinality(v_sorted)];

    while v_wanted <> '{}' loop
        if p_wait then
            perform from org_balance balance where balance.org_id = any (v_wanted)
            order by balance.org_id for no key update;
        end if;
        for v_row in
            select array_position(p_orgs, balance.org_id) as pos, balance.org_id, balance.ctid as at, balance.entries as place,
                   balance.granted - balance.consumed as balance
            from org_balance balance where balance.org_id = any (v_wanted)
            order by balance.org_id for no key update skip locked
        loop
            if v_row.place is null then
                select former.place, former.balance into v_row.place, v_row.balance
                from end_of_chain(v_row.org_id) former;
            end if;
            v_at[v_row.pos] := v_row.at; v_place[v_row.pos] := v_row.place; v_balance[v_row.pos] := v_row.balance;
        end loop;
        v_now := coalesce(v_now, p_now, clock_timestamp());

        with item as materialized (
            select p_orgs[given.pos] as org_id, given.*
            from unnest(p_pos, p_hold, p_kind, p_task, p_raw, p_reported, p_charge, p_loss, p_possible, p_reason, p_due_ms)
                 with ordinality given(pos, hold_id, kind, task, raw, reported, charge, loss, possible, reason, due_ms, ord)
            where v_at[given.pos] is not null and (p_wait or given.kind <> 'run') and given.ord <> all (v_done)
        ), stepped as materialized (
            select item.org_id, item.pos, item.hold_id, item.task, item.raw, item.reported, item.charge, item.loss, item.possible,
                   item.reason, item.due_ms, item.ord, 'generate'::text as endpoint, item.kind, step.from_state, step.to_state,
                   step.from_late, step.to_late, held.user_id, held.key_id, held.amount, held.idem_key, held.windows,
                   held.team_id, held.task_type, held.list_price, held.backend, held.account, held.owner, held.fingerprint,
                   held.at, held.part, open.at as open_at, open.state as open_state,
                   coalesce(open.upstream_task, held.upstream_task) as known_task,
                   held.raw_consumed as raw_before, held.reported as reported_before, held.reason as reason_before,
                   held.doubt_at as doubt_before, held.ended_at as ended_before, held.drift as drift_before,
                   held.lost as lost_before, held.by_hand as by_hand_before,
                   -- when what may have been lost was counted before this step
                   case when step.from_state not in ('HELD', 'RUNNING')
                        then coalesce(open.doubt_at, held.doubt_at, held.ended_at) end as exposed_at,
                   step.to_state in ('RUNNING', 'IN_DOUBT') as goes_on,
                   -- an end, and not evidence that came after it
                   step.from_state in ('HELD', 'RUNNING', 'IN_DOUBT')
                       and step.to_state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF') as ends
            from item
            cross join lateral (
                select hold.ctid as at, hold.tableoid as part,
                       hold.user_id, hold.key_id, hold.amount, hold.idem_key, hold.windows, hold.team_id, hold.task_type,
                       hold.list_price, hold.backend, hold.account, hold.owner, hold.fingerprint, hold.state, hold.late,
                       hold.upstream_task, hold.raw_consumed, hold.reported, hold.reason, hold.doubt_at, hold.ended_at,
                       hold.drift, hold.lost, hold.by_hand
                from hold where hold.org_id = item.org_id and hold.hold_id = item.hold_id
                            and hold.hold_id >= v_least and hold.hold_id <= v_most limit 1) held
            left join lateral (
                select open_task.ctid as at, open_task.state, open_task.upstream_task, open_task.doubt_at
                from open_task where open_task.org_id = item.org_id and open_task.hold_id = item.hold_id limit 1) open on true
            cross join lateral (
                select known.from_state, known.to_state, known.from_late, known.to_late
                from transition known
                where known.kind = item.kind and known.from_state = coalesce(held.state, open.state)
                  and known.from_late is not distinct from held.late limit 1) step
            where item.task is null or coalesce(open.upstream_task, held.upstream_task) = item.task
               or open.upstream_task is null and held.upstream_task is null and item.kind in ('run', 'late_run')
        ), changed as (
            update open_task open set
                state = stepped.to_state,
                upstream_task = coalesce(open.upstream_task, stepped.task),
                raw_consumed = coalesce(stepped.raw, open.raw_consumed),
                reported = coalesce(stepped.reported, open.reported),
                reason = coalesce(stepped.reason, open.reason),
                recorded_at = case when stepped.kind = 'run' then v_now else open.recorded_at end,
                doubt_at = case when stepped.to_state = 'IN_DOUBT' then v_now else open.doubt_at end,
                unanswered = null,
                guarded = case when stepped.to_state = 'IN_DOUBT' and stepped.idem_key is null then stepped.fingerprint end,
                -- a task without an id cannot be asked about: it is never due
                due_at = case when stepped.to_state = 'IN_DOUBT' and open.upstream_task is null then 'infinity'
                              else v_now + coalesce(stepped.due_ms, 0) * interval '1 millisecond' end,
                polls = case when stepped.kind = 'run' then 0 else open.polls end
            from stepped
            where open.ctid = stepped.open_at and open.state is not distinct from stepped.open_state
              and stepped.goes_on and stepped.kind <> 'late_run'
            returning stepped.*
        ), closed as (
            delete from open_task open using stepped
            where open.ctid = stepped.open_at and open.state is not distinct from stepped.open_state
              and not stepped.goes_on and stepped.kind <> 'late_run'
            returning stepped.*, open.upstream_task, open.raw_consumed, open.reported as reported_then,
                      open.reason as reason_then, open.recorded_at, open.doubt_at, open.by_hand
        ), reopened as (
            insert into open_task (org_id, hold_id, state, reopened, backend, account, owner, upstream_task, raw_consumed,
                                   reported, reason, recorded_at, doubt_at, due_at)
            select org_id, hold_id, 'RUNNING', true, backend, account, owner, coalesce(known_task, task), raw_before,
                   coalesce(reported, reported_before), coalesce(reason, reason_before), v_now, doubt_before,
                   v_now + coalesce(due_ms, 0) * interval '1 millisecond'
            from stepped where kind = 'late_run'
            returning org_id, hold_id, upstream_task, raw_consumed, reported, reason, recorded_at, doubt_at
        ), moved as materialized (
            select closed.* from closed
            union all
            select changed.*, null, null, null, null, null, null, null from changed
            union all
            select again.*, reopened.upstream_task, reopened.raw_consumed, reopened.reported, reopened.reason,
                   reopened.recorded_at, reopened.doubt_at, null
            from reopened join stepped again on again.org_id = reopened.org_id and again.hold_id = reopened.hold_id
        ), ended as materialized (
            select moved.org_id, moved.hold_id, moved.at, moved.part, moved.user_id, moved.key_id, moved.account, moved.ends,
                   moved.to_state as state, moved.to_late as late, coalesce(moved.upstream_task, moved.task) as upstream_task,
                   coalesce(moved.raw, moved.raw_consumed) as raw_consumed,
                   coalesce(moved.reported, moved.reported_then) as reported,
                   case
                    when moved.kind in ('settle', 'late_settle')
                        then moved.raw - coalesce(moved.reported, moved.reported_then, 0)
                    when moved.kind in ('fail', 'late_fail')
                        then coalesce(moved.loss, 0) - coalesce(moved.reported, moved.reported_then, 0)
                    -- what may have been taken is no drift where nothing was reported
                    when moved.kind = 'write_off' and moved.reported_then is not null then moved.loss - moved.reported_then
                    else coalesce(moved.drift_before, 0) end as drift,
                   case when moved.to_state = 'SETTLED' then moved.charge end as charged,
                   -- what the rows of platform_loss add up to
                   case when moved.kind in ('late_run', 'late_drop') then moved.lost_before else coalesce(moved.loss, 0) end as lost,
                   coalesce(moved.reason, moved.reason_then) as reason, moved.recorded_at, moved.doubt_at,
                   coalesce(moved.by_hand, moved.by_hand_before) as by_hand, coalesce(moved.ended_before, v_now) as ended_at
            from moved where not moved.goes_on
        ), written as (
            -- without a result: it would be prepared for each partition
            update hold set state = ended.state, late = ended.late, upstream_task = ended.upstream_task,
                            raw_consumed = ended.raw_consumed, reported = ended.reported, drift = ended.drift,
                            charged = ended.charged, lost = ended.lost, reason = ended.reason,
                            recorded_at = ended.recorded_at, doubt_at = ended.doubt_at, by_hand = ended.by_hand,
                            ended_at = ended.ended_at
            -- a limit of unknown length: for few rows, no plan is better than to look at each place
            from (select * from ended limit cardinality(p_hold)) ended
            where hold.ctid = ended.at and hold.tableoid = ended.part
              and hold.hold_id >= v_least and hold.hold_id <= v_most
        ), known as (
            insert into vendor_task (upstream_task, account, org_id, hold_id)
            select task, account, org_id, hold_id from moved where task is not null and known_task is null
        ), unpaid as (
            insert into unpaid_task (org_id, hold_id, user_id, key_id, ended_at, account, figures)
            select org_id, hold_id, user_id, key_id, ended_at, account, drift <> 0 or coalesce(reported, 0) <> 0
            from ended where ends and state in ('RELEASED', 'WRITTEN_OFF')
        ), drifted as (
            insert into drifted_task (org_id, hold_id, ended_at)
            select org_id, hold_id, ended_at from ended where drift <> 0
            on conflict (org_id, hold_id) do nothing
        ), settled_drift as (
            -- evidence after the end may be what was booked after all
            delete from drifted_task known using ended
            where not ended.ends and ended.drift = 0 and known.org_id = ended.org_id and known.hold_id = ended.hold_id
        ), booked as materialized (
            select moved.org_id, moved.pos, moved.hold_id as entry_id, 'consume' as kind, moved.charge, moved.hold_id, 0 as seq,
                   greatest(moved.charge - moved.amount, 0) as overrun, moved.user_id, moved.key_id, moved.team_id,
                   moved.task_type, null::text as reason, moved.ord
            from moved where moved.to_state = 'SETTLED'
            union all
            select moved.org_id, moved.pos, uuid_v7(v_now), 'correct', moved.charge, moved.hold_id, correction.next,
                   greatest(moved.charge - moved.amount, 0), moved.user_id, moved.key_id, moved.team_id, moved.task_type,
                   moved.reason, moved.ord
            from moved cross join lateral (
                select coalesce(max(earlier.seq), 0) + 1 as next from correction earlier
                where earlier.org_id = moved.org_id and earlier.hold_id = moved.hold_id) correction
            where moved.kind = 'late_settle'
        ), numbered as (
            select booked.*, v_place[booked.pos] + row_number() over so_far as place,
                   (v_balance[booked.pos] - sum(booked.charge) over so_far)::bigint as balance_after
            from booked
            window so_far as (partition by booked.pos order by booked.ord rows unbounded preceding)
        ), journal as (
            insert into entry (org_id, entry_id, kind, amount, hold_id, seq, overrun, user_id, key_id, team_id, task_type,
                               reason, created_at, place, balance_after, seal)
            select org_id, entry_id, kind, -charge, hold_id, seq, overrun, user_id, key_id, team_id, task_type, reason, v_now,
                   place, balance_after,
                   entry_seal(org_id, entry_id, kind, -charge, hold_id, seq, overrun, user_id, key_id, team_id, task_type,
                              reason, null, null, null, v_now, place, balance_after)
            from numbered order by pos, place
        ), corrected as (
            insert into correction (org_id, hold_id, seq, entry_id)
            select org_id, hold_id, seq, entry_id from booked where kind = 'correct'
        ), lost as (
            insert into platform_loss (org_id, hold_id, seq, amount, possible, reason, created_at)
            select org_id, hold_id, 0, loss, coalesce(possible, false), coalesce(reason, kind), v_now
            from moved where ends and loss <> 0
            union all
            -- what the end booked is taken back
            select moved.org_id, moved.hold_id, earlier.place, -earlier.booked, earlier.possible,
                   'it came to light after its end', v_now
            from moved cross join lateral (
                select loss.possible, sum(loss.amount)::bigint as booked,
                       (max(max(loss.seq)) over () + row_number() over ())::integer as place
                from platform_loss loss where loss.org_id = moved.org_id and loss.hold_id = moved.hold_id
                group by loss.possible) earlier
            where moved.from_late = 'open' and moved.kind in ('late_settle', 'late_fail') and earlier.booked <> 0
            union all
            -- behind the two rows above
            select moved.org_id, moved.hold_id, earlier.last + 3, moved.loss, false, coalesce(moved.reason, moved.kind), v_now
            from moved cross join lateral (
                select coalesce(max(loss.seq), 0) as last from platform_loss loss
                where loss.org_id = moved.org_id and loss.hold_id = moved.hold_id) earlier
            where moved.kind = 'late_fail' and moved.loss <> 0
            returning org_id, hold_id, amount
        ), exposed as (
            select moved.pos,
                   -- A doubt of a former count was counted there: what it turns out to have cost is not counted again.
                   sum(case when present.goes_on then booked.loss
                            else greatest(booked.loss - case when moved.from_state = 'IN_DOUBT' then moved.list_price
                                                             else 0 end, 0) end) as lost,
                   sum(case when moved.to_state = 'IN_DOUBT' then moved.list_price
                            when moved.from_state = 'IN_DOUBT' and present.goes_on then -moved.list_price
                            else 0 end) as in_doubt,
                   -- the vendor's figures: a price factor is no overrun
                   sum(case when moved.to_state = 'SETTLED' or moved.kind = 'late_settle'
                            then greatest(moved.raw - moved.list_price, 0) else 0 end) as overrun
            from moved
            cross join lateral (
                select known.exposure_since, known.stopped_at from org_balance known
                where known.org_id = moved.org_id limit 1) balance
            cross join lateral (
                select coalesce(sum(lost.amount), 0) as loss from lost
                where lost.org_id = moved.org_id and lost.hold_id = moved.hold_id) booked
            cross join lateral (
                select moved.exposed_at is null or moved.exposed_at >=
                    exposure_start(balance.exposure_since, balance.stopped_at, v_now) as goes_on) present
            where 'IN_DOUBT' in (moved.from_state, moved.to_state) or moved.kind in ('late_settle', 'late_fail')
               or moved.loss <> 0 or (moved.to_state = 'SETTLED' and moved.raw > moved.list_price)
            group by moved.pos
        ), freed as (
            delete from idempotency claim using moved
            where moved.kind in ('refuse', 'abandon', 'sweep') and moved.idem_key is not null
              and claim.org_id = moved.org_id and claim.endpoint = moved.endpoint and claim.key = moved.idem_key
              and claim.hold_id = moved.hold_id
        ), due as materialized (
            select total.*, spent.at
            from (select moved.pos, moved.org_id, listed.window_id,
                         coalesce(sum(moved.amount) filter (where moved.ends), 0)::bigint as freed,
                         coalesce(sum(moved.charge) filter (where moved.to_state = 'SETTLED' or moved.kind = 'late_settle'),
                                  0)::bigint as charged
                  from moved cross join lateral unnest(moved.windows) listed(window_id)
                  group by moved.pos, moved.org_id, listed.window_id) total
            cross join lateral (
                select known.ctid as at from budget_window known
                where known.org_id = total.org_id and known.window_id = total.window_id limit 1) spent
            where total.freed <> 0 or total.charged <> 0
        ), drawn as (
            update budget_window spent set held = spent.held - due.freed, used = spent.used + due.charged
            from due where spent.ctid = due.at
            returning spent.org_id, spent.window_id, due.charged > due.freed as grown
        ), balanced as (
            update org_balance balance
            set available = balance.available + total.freed - total.charged,
                held = balance.held - total.freed,
                consumed = balance.consumed + total.charged,
                open_tasks = balance.open_tasks + total.open,
                in_doubt = balance.in_doubt + total.doubt,
                entries = case when total.booked > 0 then v_place[total.pos] + total.booked else balance.entries end,
                (exposure_since, exposure_lost, exposure_in_doubt, exposure_overrun, stopped_at) = (
                    select balance.exposure_since, balance.exposure_lost, balance.exposure_in_doubt, balance.exposure_overrun,
                           balance.stopped_at
                    where exposed.pos is null
                    union all
                    select counted.since, counted.lost, counted.in_doubt, counted.overrun, counted.stopped
                    from count_exposure(balance.exposure_since, balance.exposure_lost, balance.exposure_in_doubt,
                                        balance.exposure_overrun, balance.stopped_at,
                                        exposed.lost, exposed.in_doubt, exposed.overrun, v_now) counted
                    where exposed.pos is not null)
            from (select pos,
                         coalesce(sum(amount) filter (where ends), 0)::bigint as freed,
                         coalesce(sum(charge) filter (where to_state = 'SETTLED' or kind = 'late_settle'), 0)::bigint as charged,
                         count(*) filter (where to_state = 'SETTLED' or kind = 'late_settle') as booked,
                         (count(*) filter (where to_state = 'RUNNING' and from_state = 'IN_DOUBT')
                          - count(*) filter (where from_state in ('HELD', 'RUNNING') and to_state <> 'RUNNING'))::integer as open,
                         (count(*) filter (where to_state = 'IN_DOUBT')
                          - count(*) filter (where from_state = 'IN_DOUBT'))::integer as doubt
                  from moved group by pos) total
            left join exposed on exposed.pos = total.pos
            where balance.ctid = v_at[total.pos]
              and (total.booked > 0 or total.freed <> 0 or total.charged <> 0 or total.open <> 0 or total.doubt <> 0
                   or exposed.pos is not null)
        )
        select coalesce((select array_agg(ord::integer) from moved), '{}'),
               (select count(*) from stepped where open_at is not null or kind = 'late_run'),
               (select count(*) from due) - (select count(*) from drawn),
               (select jsonb_object_agg(grown.org_id, grown.windows)
                from (select org_id, jsonb_agg(window_id) as windows from drawn where grown group by org_id) grown)
        into v_moved, v_fitting, v_missed, v_grown;
        if v_missed <> 0 then
            raise exception 'a budget window was changed without its balance row' using errcode = 'serialization_failure';
        end if;
        -- only an overrun or a correction takes more than what was held
        if v_grown is not null then
            perform raise_budget_events(grown.key::uuid, array(select jsonb_array_elements_text(grown.value)::bigint), v_now)
            from jsonb_each(v_grown) grown;
        end if;
        if 'late_run' = any(p_kind) then
            -- late evidence changes what the report of drift says of it
            update unpaid_task known set ended_at = late.ended_at, account = late.account, figures = true
            from unnest(v_moved) done(ord)
            cross join lateral (
                select held.org_id, held.hold_id, held.ended_at, held.account from hold held
                where held.org_id = p_orgs[p_pos[done.ord]] and held.hold_id = p_hold[done.ord]
                  and held.hold_id >= v_least and held.hold_id <= v_most limit 1) late
            where p_kind[done.ord] = 'late_run' and known.org_id = late.org_id and known.hold_id = late.hold_id;
            perform follow_reopened(p_orgs, array(select p_pos[done.ord] from unnest(v_moved) done(ord) order by done.ord),
                                    array(select p_hold[done.ord] from unnest(v_moved) done(ord) order by done.ord), v_now);
        end if;
        v_done := v_done || v_moved;
        exit when cardinality(v_moved) = v_fitting;
    end loop;

    if not p_wait and 'run' = any (p_kind) then
        select array_agg(free.at order by item.ord), array_agg(item.ord::integer order by item.ord) into v_open, v_items
        from unnest(p_pos, p_hold, p_kind) with ordinality item(pos, hold_id, kind, ord)
        cross join lateral (
            select open.ctid as at from open_task open
            where open.org_id = p_orgs[item.pos] and open.hold_id = item.hold_id
              and open.state is not distinct from 'HELD' for no key update skip locked) free
        where item.kind = 'run';
        v_now := coalesce(v_now, p_now, clock_timestamp());
        with running as (
            update open_task open set
                state = 'RUNNING',
                upstream_task = coalesce(open.upstream_task, p_task[accepted.ord]),
                raw_consumed = coalesce(p_raw[accepted.ord], open.raw_consumed),
                reported = coalesce(p_reported[accepted.ord], open.reported),
                recorded_at = v_now,
                unanswered = null,
                guarded = null,
                due_at = v_now + coalesce(p_due_ms[accepted.ord], 0) * interval '1 millisecond',
                polls = 0
            from unnest(v_open, v_items) accepted(at, ord)
            where open.ctid = accepted.at
            returning p_task[accepted.ord] as task, open.account, open.org_id, open.hold_id, accepted.ord
        ), known as (
            insert into vendor_task (upstream_task, account, org_id, hold_id)
            select running.task, running.account, running.org_id, running.hold_id from running
        )
        select v_done || coalesce(array_agg(running.ord), '{}') into v_done from running;
    end if;
    foreach v_item in array v_done loop outcome[v_item] := 'applied'; end loop;

    if not p_wait and 'unchanged' = any (outcome) then
        for v_row in
            select item.ord
            from unnest(p_pos, p_kind, outcome) with ordinality item(pos, kind, outcome, ord)
            where item.outcome = 'unchanged'
              and (item.kind = 'run'
                   or (v_at[item.pos] is null
                       and exists (select from org_balance balance where balance.org_id = p_orgs[item.pos] limit 1)))
        loop
            outcome[v_row.ord] := 'busy';
        end loop;
    end if;
end $$;
