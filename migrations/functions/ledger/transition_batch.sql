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
-- because both are known before a statement begins, the others are not opened by it.
create or replace function transition_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_reported bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
    p_reason text[], p_data text[], p_answer text[], p_due_ms bigint[], p_now timestamptz, p_wait boolean default true,
    out outcome text[]
) language plpgsql set plan_cache_mode = force_generic_plan as $$
declare
    v_now    timestamptz;
    -- of each organisation, whether we need its balance row, and whether we have it
    v_wanted boolean[] := array_fill(false, array[cardinality(p_orgs)]);
    v_locked boolean[] := v_wanted;
    -- of each item, whether it can go without the balance row
    v_light  boolean[] := array_fill(false, array[cardinality(p_hold)]);
    -- of each item, whether it goes with the balance row that we have
    v_take   boolean[];
    v_done   integer[];
    v_item   integer;
    -- the least and the greatest id
    v_least  uuid := p_hold[1];
    v_most   uuid := p_hold[1];
    -- windows in which more was spent than had been held, by organisation
    v_grown  jsonb;
    v_row    record;
begin
    outcome := array_fill('unchanged'::text, array[cardinality(p_hold)]);
    if p_wait then
        perform 1 from unnest(p_orgs) with ordinality org(org_id, place)
        join org_balance balance on balance.org_id = org.org_id order by org.place for no key update of balance;
        v_locked := array_fill(true, array[cardinality(p_orgs)]);
    else
        for v_item in 1..cardinality(p_hold) loop
            v_light[v_item] := p_kind[v_item] = 'run';
            if not v_light[v_item] then v_wanted[p_pos[v_item]] := true; end if;
        end loop;
        if true = any(v_wanted) then
            for v_row in
                select org.place
                from unnest(p_orgs, v_wanted) with ordinality org(org_id, wanted, place)
                join org_balance balance on balance.org_id = org.org_id
                where org.wanted order by org.place for no key update of balance skip locked
            loop
                v_locked[v_row.place] := true;
            end loop;
        end if;
    end if;
    v_now := coalesce(p_now, clock_timestamp());
    for v_item in 2..cardinality(p_hold) loop
        v_least := least(v_least, p_hold[v_item]); v_most := greatest(v_most, p_hold[v_item]);
    end loop;

    v_take := array(select not item.light and v_locked[item.pos]
                    from unnest(p_pos, v_light) with ordinality item(pos, light, ord) order by item.ord);
    if true = any(v_take) then
        with item as materialized (
            select p_orgs[given.pos] as org_id, given.*
            from unnest(p_pos, p_hold, p_kind, p_task, p_raw, p_reported, p_charge, p_loss, p_possible, p_reason, p_due_ms)
                 with ordinality given(pos, hold_id, kind, task, raw, reported, charge, loss, possible, reason, due_ms, ord)
            where v_take[given.ord]
        ), stepped as materialized (
            select item.org_id, item.hold_id, item.task, item.raw, item.reported, item.charge, item.loss, item.possible,
                   item.reason, item.due_ms, item.ord, step.kind, step.from_state, step.to_state, step.from_late, step.to_late,
                   held.user_id, held.key_id, held.amount, held.idem_key, held.windows, held.team_id, held.task_type,
                   held.list_price, held.backend, held.account, held.owner, held.fingerprint,
                   open.state as open_state, coalesce(open.upstream_task, held.upstream_task) as known_task,
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
                select hold.user_id, hold.key_id, hold.amount, hold.idem_key, hold.windows, hold.team_id, hold.task_type,
                       hold.list_price, hold.backend, hold.account, hold.owner, hold.fingerprint, hold.state, hold.late,
                       hold.upstream_task, hold.raw_consumed, hold.reported, hold.reason, hold.doubt_at, hold.ended_at,
                       hold.drift, hold.lost, hold.by_hand
                from hold where hold.org_id = item.org_id and hold.hold_id = item.hold_id
                            and hold.hold_id >= v_least and hold.hold_id <= v_most limit 1) held
            left join lateral (
                select open_task.state, open_task.upstream_task, open_task.doubt_at
                from open_task where open_task.org_id = item.org_id and open_task.hold_id = item.hold_id limit 1) open on true
            join transition step on step.kind = item.kind and step.from_state = coalesce(held.state, open.state)
                                and step.from_late is not distinct from held.late
            where item.task is null or coalesce(open.upstream_task, held.upstream_task) = item.task
               or open.upstream_task is null and held.upstream_task is null and item.kind in ('run', 'late_run')
        ), changed as (
            select stepped.ord
            from stepped cross join lateral step_open_task(
                stepped.org_id, stepped.hold_id, stepped.open_state, stepped.to_state, stepped.kind, stepped.task, stepped.raw,
                stepped.reported, stepped.reason, case when stepped.idem_key is null then stepped.fingerprint end,
                stepped.due_ms, v_now) done(account)
            where stepped.goes_on and stepped.kind <> 'late_run' and done.account is not null
        ), closed as (
            select stepped.ord, was.upstream_task, was.raw_consumed, was.reported, was.reason, was.recorded_at, was.doubt_at,
                   was.by_hand
            from stepped cross join lateral close_open_task(stepped.org_id, stepped.hold_id, stepped.open_state) was
            where not stepped.goes_on and stepped.kind <> 'late_run' and was.closed
        ), reopened as (
            insert into open_task (org_id, hold_id, state, reopened, backend, account, owner, upstream_task, raw_consumed,
                                   reported, reason, recorded_at, doubt_at, due_at)
            select org_id, hold_id, 'RUNNING', true, backend, account, owner, coalesce(known_task, task), raw_before,
                   coalesce(reported, reported_before), coalesce(reason, reason_before), v_now, doubt_before,
                   v_now + coalesce(due_ms, 0) * interval '1 millisecond'
            from stepped where kind = 'late_run'
            returning org_id, hold_id, upstream_task, raw_consumed, reported, reason, recorded_at, doubt_at
        ), moved as materialized (
            select stepped.*, 'generate'::text as endpoint, was.upstream_task, was.raw_consumed,
                   was.reported as reported_then, was.reason as reason_then, was.recorded_at, was.doubt_at, was.by_hand
            from stepped join (
                select ord, null::text as upstream_task, null::bigint as raw_consumed, null::bigint as reported,
                       null::text as reason, null::timestamptz as recorded_at, null::timestamptz as doubt_at,
                       null::jsonb as by_hand from changed
                union all
                select ord, upstream_task, raw_consumed, reported, reason, recorded_at, doubt_at, by_hand from closed
                union all
                select again.ord, reopened.upstream_task, reopened.raw_consumed, reopened.reported, reopened.reason,
                       reopened.recorded_at, reopened.doubt_at, null
                from reopened join stepped again on again.org_id = reopened.org_id and again.hold_id = reopened.hold_id) was
              on was.ord = stepped.ord
        ), ended as materialized (
            select moved.org_id, moved.hold_id, moved.user_id, moved.key_id, moved.ends, moved.kind, moved.to_state as state,
                   moved.to_late as late, coalesce(moved.upstream_task, moved.task) as upstream_task,
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
            from ended
            where hold.org_id = ended.org_id and hold.hold_id = ended.hold_id
              and hold.hold_id >= v_least and hold.hold_id <= v_most
        ), known as (
            insert into vendor_task (upstream_task, account, org_id, hold_id)
            select task, account, org_id, hold_id from moved where task is not null and known_task is null
        ), unpaid as (
            insert into unpaid_task (org_id, hold_id, user_id, key_id)
            select org_id, hold_id, user_id, key_id from ended where ends and state in ('RELEASED', 'WRITTEN_OFF')
        ), drifted as (
            insert into drifted_task (org_id, hold_id, ended_at)
            select org_id, hold_id, ended_at from ended where drift <> 0
            on conflict (org_id, hold_id) do nothing
        ), settled_drift as (
            -- evidence after the end may be what was booked after all
            delete from drifted_task known using ended
            where not ended.ends and ended.drift = 0 and known.org_id = ended.org_id and known.hold_id = ended.hold_id
        ), chained as materialized (
            select booking.org_id, former.place, former.balance
            from (select distinct moved.org_id from moved where moved.to_state = 'SETTLED' or moved.kind = 'late_settle') booking
            join org_balance balance on balance.org_id = booking.org_id
            cross join lateral end_of_chain(booking.org_id, balance.entries, balance.granted - balance.consumed) former
        ), booked as materialized (
            select moved.org_id, moved.hold_id as entry_id, 'consume' as kind, moved.charge, moved.hold_id, 0 as seq,
                   greatest(moved.charge - moved.amount, 0) as overrun, moved.user_id, moved.key_id, moved.team_id,
                   moved.task_type, null::text as reason, moved.ord
            from moved where moved.to_state = 'SETTLED'
            union all
            select moved.org_id, uuid_v7(v_now), 'correct', moved.charge, moved.hold_id, correction.next,
                   greatest(moved.charge - moved.amount, 0), moved.user_id, moved.key_id, moved.team_id, moved.task_type,
                   moved.reason, moved.ord
            from moved cross join lateral (
                select coalesce(max(earlier.seq), 0) + 1 as next from correction earlier
                where earlier.org_id = moved.org_id and earlier.hold_id = moved.hold_id) correction
            where moved.kind = 'late_settle'
        ), numbered as materialized (
            select booked.*, chained.place + row_number() over so_far as place,
                   (chained.balance - sum(booked.charge) over so_far)::bigint as balance_after
            from booked join chained on chained.org_id = booked.org_id
            window so_far as (partition by booked.org_id order by booked.ord rows unbounded preceding)
        ), journal as (
            insert into entry (org_id, entry_id, kind, amount, hold_id, seq, overrun, user_id, key_id, team_id, task_type,
                               reason, created_at, place, balance_after, seal)
            select org_id, entry_id, kind, -charge, hold_id, seq, overrun, user_id, key_id, team_id, task_type, reason, v_now,
                   place, balance_after,
                   entry_seal(org_id, entry_id, kind, -charge, hold_id, seq, overrun, user_id, key_id, team_id, task_type,
                              reason, null, null, null, v_now, place, balance_after)
            from numbered order by org_id, place
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
            select moved.org_id,
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
            from moved join org_balance balance on balance.org_id = moved.org_id
            cross join lateral (
                select coalesce(sum(lost.amount), 0) as loss from lost
                where lost.org_id = moved.org_id and lost.hold_id = moved.hold_id) booked
            cross join lateral (
                select moved.exposed_at is null or moved.exposed_at >=
                    exposure_start(balance.exposure_since, balance.stopped_at, v_now) as goes_on) present
            where 'IN_DOUBT' in (moved.from_state, moved.to_state) or moved.kind in ('late_settle', 'late_fail')
               or moved.loss <> 0 or (moved.to_state = 'SETTLED' and moved.raw > moved.list_price)
            group by moved.org_id
        ), freed as (
            delete from idempotency claim using moved
            where moved.kind in ('refuse', 'abandon', 'sweep') and moved.idem_key is not null
              and claim.org_id = moved.org_id and claim.endpoint = moved.endpoint and claim.key = moved.idem_key
              and claim.hold_id = moved.hold_id
        ), drawn as (
            update budget_window spent set held = spent.held - total.freed, used = spent.used + total.charged
            from (select moved.org_id, listed.window_id,
                         coalesce(sum(moved.amount) filter (where moved.ends), 0)::bigint as freed,
                         coalesce(sum(moved.charge) filter (where moved.to_state = 'SETTLED' or moved.kind = 'late_settle'),
                                  0)::bigint as charged
                  from moved cross join lateral unnest(moved.windows) listed(window_id)
                  group by moved.org_id, listed.window_id) total
            where spent.org_id = total.org_id and spent.window_id = total.window_id
              and (total.freed <> 0 or total.charged <> 0)
            returning spent.org_id, spent.window_id, total.charged > total.freed as grown
        ), balanced as (
            update org_balance balance
            set available = balance.available + total.freed - total.charged,
                held = balance.held - total.freed,
                consumed = balance.consumed + total.charged,
                open_tasks = balance.open_tasks + total.open,
                in_doubt = balance.in_doubt + total.doubt,
                entries = coalesce(reached.place, balance.entries),
                (exposure_since, exposure_lost, exposure_in_doubt, exposure_overrun, stopped_at) = (
                    select counted.since, counted.lost, counted.in_doubt, counted.overrun, counted.stopped
                    from count_exposure(balance.exposure_since, balance.exposure_lost, balance.exposure_in_doubt,
                                        balance.exposure_overrun, balance.stopped_at,
                                        exposed.lost, exposed.in_doubt, exposed.overrun, v_now) counted)
            from (select org_id,
                         coalesce(sum(amount) filter (where ends), 0)::bigint as freed,
                         coalesce(sum(charge) filter (where to_state = 'SETTLED' or kind = 'late_settle'), 0)::bigint as charged,
                         (count(*) filter (where to_state = 'RUNNING' and from_state = 'IN_DOUBT')
                          - count(*) filter (where from_state in ('HELD', 'RUNNING') and to_state <> 'RUNNING'))::integer as open,
                         (count(*) filter (where to_state = 'IN_DOUBT')
                          - count(*) filter (where from_state = 'IN_DOUBT'))::integer as doubt
                  from moved group by org_id) total
            left join exposed on exposed.org_id = total.org_id
            left join (select org_id, max(place) as place from numbered group by org_id) reached on reached.org_id = total.org_id
            where balance.org_id = total.org_id
              and (reached.place is not null or total.freed <> 0 or total.charged <> 0 or total.open <> 0 or total.doubt <> 0
                   or exposed.org_id is not null)
        )
        select coalesce((select array_agg(ord::integer) from moved), '{}'),
               (select jsonb_object_agg(grown.org_id, grown.windows)
                from (select org_id, jsonb_agg(window_id) as windows from drawn where grown group by org_id) grown)
        into v_done, v_grown;
        -- only an overrun or a correction takes more than what was held
        if v_grown is not null then
            perform raise_budget_events(grown.key::uuid, array(select jsonb_array_elements_text(grown.value)::bigint), v_now)
            from jsonb_each(v_grown) grown;
        end if;
        if 'late_run' = any(p_kind) then
            perform follow_reopened(p_orgs, array(select p_pos[done.ord] from unnest(v_done) done(ord) order by done.ord),
                                    array(select p_hold[done.ord] from unnest(v_done) done(ord) order by done.ord), v_now);
        end if;
        foreach v_item in array v_done loop outcome[v_item] := 'applied'; end loop;
    end if;

    if true = any(v_light) then
        with accepted as materialized (
            select free.org_id, free.hold_id, item.task, item.raw, item.reported, item.due_ms, item.ord
            from unnest(p_pos, p_hold, v_light, p_task, p_raw, p_reported, p_due_ms) with ordinality
                 item(pos, hold_id, light, task, raw, reported, due_ms, ord)
            cross join lateral (
                select open.org_id, open.hold_id from open_task open
                where open.org_id = p_orgs[item.pos] and open.hold_id = item.hold_id
                  and open.state is not distinct from 'HELD' for no key update skip locked) free
            where item.light
        ), running as materialized (
            select accepted.task, done.account, accepted.org_id, accepted.hold_id, accepted.ord
            from accepted cross join lateral step_open_task(
                accepted.org_id, accepted.hold_id, 'HELD', 'RUNNING', 'run', accepted.task, accepted.raw, accepted.reported,
                null, null, accepted.due_ms, v_now) done(account)
            where done.account is not null
        ), known as (
            insert into vendor_task (upstream_task, account, org_id, hold_id)
            select running.task, running.account, running.org_id, running.hold_id from running
        )
        select coalesce(array_agg(running.ord::integer), '{}') into v_done from running;
        foreach v_item in array v_done loop outcome[v_item] := 'applied'; end loop;
    end if;

    if not p_wait then
        for v_row in
            select item.ord
            from unnest(p_pos, v_light) with ordinality item(pos, light, ord)
            where case when item.light then outcome[item.ord] <> 'applied'
                       else not v_locked[item.pos]
                            and exists (select from org_balance balance where balance.org_id = p_orgs[item.pos]) end
        loop
            outcome[v_row.ord] := 'busy';
        end loop;
    end if;
end $$;
