-- Reserves credits for a batch of creates: a hold for each item that is granted, in order of arrival; an item that does
-- not fit does not block those behind it. Arrays in, one verdict for each item out: a lane makes this one call.
--
-- p_orgs: the organisations of the batch in the order of their ids, which is the order in which every writer locks their
-- balance rows (or two mixed batches deadlock). p_pos: of each item, the place of its organisation among them.
-- p_keyed: whether the item has an idempotency key; p_guard: whether to look for an earlier create that it repeats: while the
-- same body is in doubt it is refused, and (for gateways that know these verdicts) it is attached to one whose caller has gone.
-- Null: also one whose caller may be there is told of, before anything is granted.
-- p_resend: an earlier sending of these ids may have been committed. p_now: for tests; null: the database's clock.
-- p_wait: whether to wait for a balance row that somebody else has locked. A batch of many organisations must not, or all
-- of them wait for one.
--
-- verdict                     available                  reference
-- 'granted'                   after this grant
-- 'granted_before'            after that grant                             an earlier sending of this id made the hold
-- 'ended'                     after that grant                             it did, and the hold has left HELD since
-- 'insufficient'              what was there                               not enough credits
-- 'too_many_tasks'            what was there                               as many unfinished tasks as are allowed
-- 'stopped'                                                                its creates are stopped (count_exposure says why)
-- 'over_budget'               what is left of it         the budget
-- 'key_taken'                                            its hold          null if another item of this batch has the key
-- 'in_doubt'                                             the hold          the same body is in doubt
-- 'attach'                                               the hold          its caller has gone: the item waits for its answer
-- 'unanswered'                                           the hold          the same body has no answer yet; ask again with p_guard true
-- 'unknown_org'                                          it is deleted, or was never there
-- 'busy'                                                                   its balance row is locked: nothing was decided
--
-- Locks: first the balance rows, then anything else. All that changes an organisation's money does so under its balance
-- row, so later statements of the same call read a snapshot taken after the lock and cannot be overtaken. For the same
-- reason this must not become one statement: a wait for a lock does not refresh the snapshot of the statement that waits.
--
-- Budgets: which windows are drawn on is found before the rows are locked, and found again under the lock only if the
-- budgets have changed meanwhile or a window has ended; what is left of them is read under the lock, and the hold is dated
-- there.
--
-- Plans: a lane plans each statement once, perhaps while the tables are empty and any plan seems as good. What must be
-- looked up row by row is therefore written so that no other plan exists: a lateral subquery with a limit, and no constant
-- that an index alone could be scanned by; what is changed is named by its place in the table (see transition_batch). A batch of
-- one is not planned anew each time, which takes longer than its work.
create or replace function reserve_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz,
    p_wait boolean default true,
    out verdict text[], out available bigint[], out reference uuid[]
) language plpgsql set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
declare
    v_items     constant integer := cardinality(p_hold);
    v_orgs      constant integer := cardinality(p_orgs);
    v_now       timestamptz := coalesce(p_now, clock_timestamp());

    -- of each organisation
    v_available bigint[] := array_fill(null::bigint, array[v_orgs]);
    v_overdraft bigint[] := v_available;
    v_taken     bigint[] := array_fill(0::bigint, array[v_orgs]);
    v_granted   integer[] := array_fill(0, array[v_orgs]);
    v_open      integer[] := v_granted;
    v_max_open  integer[] := v_granted;
    v_in_doubt  integer[] := v_granted;
    v_stopped   boolean[] := array_fill(false, array[v_orgs]);
    -- 0: no budget counts; else which state of its budgets was looked at
    v_budgets   bigint[] := array_fill(0::bigint, array[v_orgs]);
    -- whether its balance row must be locked
    v_wanted    boolean[] := array_fill(false, array[v_orgs]);
    -- where that is, if it could be locked
    v_balance_at tid[] := array_fill(null::tid, array[v_orgs]);
    v_locking   uuid[];

    -- a gateway of an earlier version does not know the verdict 'stopped', nor does it have this setting
    v_knows_stops constant boolean := current_setting('tollgate.max_exposure_per_day', true) is not null;
    -- nor does one of an earlier version know 'attach' and 'unanswered'
    v_looks constant boolean := current_setting('tollgate.attaches', true) is not null
                                and (true = any(p_guard) or array_position(p_guard, null) is not null);
    v_looks_for_all constant boolean := v_looks and array_position(p_guard, null) is not null;

    v_any_wanted     boolean := false;
    v_any_in_doubt   boolean := false;
    v_any_teams      boolean := false;
    v_any_budgets    boolean := false;
    v_budgets_moved  boolean := false;

    -- of each item, the team of its user; null while no user can have one
    v_team      uuid[];

    -- what draw_budgets answers: the callers of the batch and the windows they draw on
    v_plan      record;
    -- of each item its caller, 0 where nothing is drawn; caller c draws on the windows draw[first[c]..last[c]]
    v_caller_of integer[];
    v_first     integer[];
    v_last      integer[];
    v_draw      integer[];
    -- of each window: its id, where its row is, what was left before this batch, what is left now, how much is left when its next
    -- event is due
    v_window    bigint[];
    v_window_at tid[];
    v_before    bigint[];
    v_left      bigint[];
    v_alert     bigint[];
    -- of each caller, the list of its windows as text: an array of arrays would have to be rectangular
    v_windows   text[];
    -- of each granted item, the least that is left of one of its windows
    v_budget_after bigint[];

    -- of each item, the place of the like one before it
    v_like      integer[];
    v_earlier   integer;

    v_least     bigint;
    v_changed   bigint;
    v_caller    integer;
    v_org       integer;
    v_row       record;
begin
    verdict := array_fill(null::text, array[v_items]);
    available := array_fill(null::bigint, array[v_items]);
    reference := array_fill(null::uuid, array[v_items]);

    -- A refusal must not touch the hot row: what cannot fit by a plain read is refused from it. Keyed items go on
    -- (a taken key is answered before the balance), those that may repeat one in doubt (so is that), and those
    -- that were sent before (they may have been granted).
    for v_row in
        select org.place, balance.available, balance.overdraft, balance.open_tasks,
               coalesce(balance.max_open_tasks, p_max_open) as max_open, balance.in_doubt,
               balance.stopped_at is not null as stopped, balance.budgets, balance.teams
        from unnest(p_orgs) with ordinality org(org_id, place)
        cross join lateral (select * from org_balance known where known.org_id = org.org_id limit 1) balance
        where not balance.deleted
    loop
        v_available[v_row.place] := v_row.available; v_overdraft[v_row.place] := v_row.overdraft;
        v_open[v_row.place] := v_row.open_tasks; v_max_open[v_row.place] := v_row.max_open;
        v_in_doubt[v_row.place] := v_row.in_doubt; v_stopped[v_row.place] := v_row.stopped;
        v_budgets[v_row.place] := v_row.budgets; v_any_budgets := v_any_budgets or v_row.budgets > 0;
        v_any_teams := v_any_teams or v_row.teams;
    end loop;
    if v_any_teams then
        select array_agg(member.team_id order by item.ord) into v_team
        from unnest(p_user) with ordinality item(user_id, ord)
        left join lateral (select app_user.team_id from app_user where app_user.user_id = item.user_id limit 1) member on true;
    end if;
    if v_any_budgets then
        v_plan := draw_budgets(p_orgs, v_budgets, p_pos, p_user, p_key, v_team, v_now);
        v_caller_of := v_plan.caller; v_first := v_plan.first; v_last := v_plan.last; v_draw := v_plan.draw;
        select present.window_id, present.remains into v_window, v_left
        from left_of_windows(p_orgs, v_plan.pos, v_plan.level, v_plan.subject_id, v_plan.period, v_plan.starts_at,
                             v_plan.cap, v_plan.thresholds, false) present;
    end if;
    -- Before any refusal: the earlier create may hold the last credits.
    if v_looks and not p_resend then
        for v_row in
            select known.place, known.earlier, known.gone
            from repeated_creates(p_orgs, p_pos, p_hold, p_user, p_fingerprint, p_guard, v_now) known
        loop
            verdict[v_row.place] := case when v_row.gone then 'attach' else 'unanswered' end;
            reference[v_row.place] := v_row.earlier;
        end loop;
    end if;
    for v_item in 1..v_items loop
        v_org := p_pos[v_item];
        if verdict[v_item] is not null then
            continue;
        elsif v_available[v_org] is null then
            verdict[v_item] := 'unknown_org';
        elsif p_keyed[v_item] or p_resend or (p_guard[v_item] is distinct from false and v_in_doubt[v_org] > 0) then
            v_wanted[v_org] := true; v_any_wanted := true;
        elsif v_stopped[v_org] then
            verdict[v_item] := case when v_knows_stops then 'stopped' else 'too_many_tasks' end;
        elsif p_amount[v_item] - v_overdraft[v_org] > v_available[v_org] then
            verdict[v_item] := 'insufficient'; available[v_item] := v_available[v_org];
        elsif v_max_open[v_org] > 0 and v_open[v_org] >= v_max_open[v_org] then
            verdict[v_item] := 'too_many_tasks'; available[v_item] := v_available[v_org];
        else
            v_caller := case when v_any_budgets then v_caller_of[v_item] else 0 end;
            if v_caller > 0 then
                for v_at in v_first[v_caller]..v_last[v_caller] loop
                    if p_amount[v_item] > v_left[v_draw[v_at]] then
                        verdict[v_item] := 'over_budget'; available[v_item] := v_left[v_draw[v_at]];
                        reference[v_item] := v_plan.budget_id[v_draw[v_at]];
                        exit;
                    end if;
                end loop;
            end if;
            if verdict[v_item] is null then
                v_wanted[v_org] := true; v_any_wanted := true;
            end if;
        end if;
    end loop;
    if not v_any_wanted then return; end if;

    v_locking := array(select p_orgs[org.place] from unnest(v_wanted) with ordinality org(wanted, place) where org.wanted);
    if p_wait then
        perform from org_balance balance where balance.org_id = any (v_locking) order by balance.org_id for no key update;
    end if;
    for v_row in
        select array_position(p_orgs, balance.org_id) as place, balance.ctid as at, balance.available, balance.overdraft,
               balance.open_tasks, coalesce(balance.max_open_tasks, p_max_open) as max_open, balance.in_doubt,
               balance.stopped_at is not null as stopped, balance.budgets, balance.deleted
        from org_balance balance where balance.org_id = any (v_locking)
        order by balance.org_id for no key update skip locked
    loop
        v_balance_at[v_row.place] := v_row.at;
        -- a gateway may not know of a deletion yet
        v_available[v_row.place] := case when not v_row.deleted then v_row.available end;
        v_overdraft[v_row.place] := v_row.overdraft;
        v_open[v_row.place] := v_row.open_tasks; v_max_open[v_row.place] := v_row.max_open;
        v_stopped[v_row.place] := v_row.stopped;
        v_any_in_doubt := v_any_in_doubt or v_row.in_doubt > 0;
        if v_budgets[v_row.place] <> v_row.budgets then
            v_budgets[v_row.place] := v_row.budgets; v_budgets_moved := true;
        end if;
    end loop;
    if array_position(v_balance_at, null) is not null then
        for v_org in 1..v_orgs loop v_wanted[v_org] := v_wanted[v_org] and v_balance_at[v_org] is not null; end loop;
        for v_item in 1..v_items loop
            if verdict[v_item] is null and not v_wanted[p_pos[v_item]] then verdict[v_item] := 'busy'; end if;
        end loop;
        if not true = any (v_wanted) then return; end if;
    end if;
    v_now := coalesce(p_now, clock_timestamp());
    if v_any_budgets and not v_budgets_moved then
        v_budgets_moved := coalesce(v_now >= v_plan.valid_until, false);
    end if;
    if v_budgets_moved then
        v_any_budgets := 0 < any (v_budgets);
        v_plan := draw_budgets(p_orgs, v_budgets, p_pos, p_user, p_key, v_team, v_now);
        v_caller_of := v_plan.caller; v_first := v_plan.first; v_last := v_plan.last; v_draw := v_plan.draw;
    end if;

    if p_resend then
        for v_row in
            select item.ord, open_task.state, hold.balance_after
            from unnest(p_pos, p_hold) with ordinality item(pos, hold_id, ord)
            join hold on hold.org_id = p_orgs[item.pos] and hold.hold_id = item.hold_id
            left join open_task on open_task.org_id = hold.org_id and open_task.hold_id = hold.hold_id
            where v_wanted[item.pos]
        loop
            verdict[v_row.ord] := case when v_row.state = 'HELD' then 'granted_before' else 'ended' end;
            available[v_row.ord] := v_row.balance_after;
        end loop;
        if v_looks then
            for v_row in
                select known.place, known.earlier, known.gone
                from repeated_creates(p_orgs, p_pos, p_hold, p_user, p_fingerprint, p_guard, v_now) known
            loop
                if verdict[v_row.place] is null then
                    verdict[v_row.place] := case when v_row.gone then 'attach' else 'unanswered' end;
                    reference[v_row.place] := v_row.earlier;
                end if;
            end loop;
        end if;
    end if;

    if true = any(p_keyed) then
        for v_row in
            select item.ord, claim.hold_id
            from unnest(p_pos, p_idem) with ordinality item(pos, idem, ord)
            cross join lateral (
                select known.hold_id from idempotency known
                where known.org_id = p_orgs[item.pos] and known.endpoint = 'generate' and known.key = item.idem limit 1) claim
        loop
            if verdict[v_row.ord] is null then
                verdict[v_row.ord] := 'key_taken'; reference[v_row.ord] := v_row.hold_id;
            end if;
        end loop;
        -- the same key twice in one batch: the first in line has it
        for v_row in
            select keyed.ord
            from (select item.ord, row_number() over (partition by item.pos, item.idem order by item.ord) as place
                  from unnest(p_pos, p_idem) with ordinality item(pos, idem, ord) where item.idem is not null) keyed
            where keyed.place > 1
        loop
            if verdict[v_row.ord] is null then verdict[v_row.ord] := 'key_taken'; end if;
        end loop;
    end if;

    if v_any_in_doubt then
        for v_row in
            select item.ord, doubt.hold_id
            from unnest(p_pos, p_user, p_fingerprint, p_guard) with ordinality
                 item(pos, user_id, fingerprint, guarded, ord)
            cross join lateral (
                select same.hold_id
                from (select open_task.hold_id from open_task
                      where open_task.org_id = p_orgs[item.pos] and open_task.guarded = item.fingerprint offset 0) same
                -- never the other way round, through all that the user has ever made
                cross join lateral maker_of(p_orgs[item.pos], same.hold_id) owned
                where owned.user_id = item.user_id
                limit 1) doubt
            where item.guarded is distinct from false
        loop
            if verdict[v_row.ord] is null then
                verdict[v_row.ord] := 'in_doubt'; reference[v_row.ord] := v_row.hold_id;
            end if;
        end loop;
    end if;

    -- What gives way to nobody (give_way) has noted under the balance row that its caller has gone.
    if v_looks and not p_resend and true = any(p_guard) then
        for v_row in
            select known.place, known.earlier
            from repeated_creates(p_orgs, p_pos, p_hold, p_user, p_fingerprint,
                                  array(select coalesce(guarded.guard, false)
                                        from unnest(p_guard) with ordinality guarded(guard, ord) order by guarded.ord), v_now) known
        loop
            if verdict[v_row.place] is null then
                verdict[v_row.place] := 'attach'; reference[v_row.place] := v_row.earlier;
            end if;
        end loop;
    end if;

    -- A create that was slow may be overtaken by its own repetition, on another gateway or in this batch.
    if v_looks_for_all then
        for v_row in
            select item.ord, under_way.hold_id
            from unnest(p_pos, p_user, p_fingerprint, p_guard, verdict) with ordinality
                 item(pos, user_id, fingerprint, guard, verdict, ord)
            cross join lateral create_under_way(p_orgs[item.pos], item.user_id, item.fingerprint) under_way
            where item.guard is null and item.verdict is null
        loop
            verdict[v_row.ord] := 'unanswered'; reference[v_row.ord] := v_row.hold_id;
        end loop;
        if v_items > 1 then
            v_like := (
                select array_agg(item.before order by item.ord)
                from (select own.ord, lag(own.ord) over (partition by own.pos, own.user_id, own.fingerprint, own.looked_for
                                                         order by own.ord) as before
                      from (select alike.*, alike.guard is distinct from false as looked_for
                            from unnest(p_pos, p_user, p_fingerprint, p_guard) with ordinality
                                 alike(pos, user_id, fingerprint, guard, ord)) own) item);
        end if;
    end if;

    -- The windows as they are now; windows that are drawn on for the first time are made.
    if v_any_budgets then
        loop
            select present.window_id, present.remains, present.alert, present.at into v_window, v_left, v_alert, v_window_at
            from left_of_windows(p_orgs, v_plan.pos, v_plan.level, v_plan.subject_id, v_plan.period, v_plan.starts_at,
                                 v_plan.cap, v_plan.thresholds, true) present;
            insert into budget_window (org_id, level, subject_id, period, starts_at)
            select p_orgs[missing.pos], missing.level, missing.subject_id, missing.period, missing.starts_at
            from unnest(v_plan.pos, v_plan.level, v_plan.subject_id, v_plan.period, v_plan.starts_at, v_window)
                 missing(pos, level, subject_id, period, starts_at, window_id)
            where missing.window_id is null and v_wanted[missing.pos];
            exit when not found;
        end loop;
        v_before := v_left;
        v_budget_after := array_fill(null::bigint, array[v_items]);
        v_windows := (
            select array_agg(array(select v_window[v_draw[place]] from generate_series(caller.first, caller.last) place)::text
                             order by caller.ord)
            from unnest(v_first, v_last) with ordinality caller(first, last, ord));
    end if;

    for v_item in 1..v_items loop
        if verdict[v_item] is not null then continue; end if;
        v_org := p_pos[v_item];
        v_earlier := v_like[v_item];
        if v_earlier is not null and p_guard[v_item] is null and verdict[v_earlier] in ('granted', 'unanswered') then
            verdict[v_item] := 'unanswered'; reference[v_item] := coalesce(reference[v_earlier], p_hold[v_earlier]);
        elsif v_available[v_org] is null then
            verdict[v_item] := 'unknown_org';
        elsif v_stopped[v_org] then
            verdict[v_item] := case when v_knows_stops then 'stopped' else 'too_many_tasks' end;
        elsif p_amount[v_item] - v_overdraft[v_org] > v_available[v_org] then
            verdict[v_item] := 'insufficient'; available[v_item] := v_available[v_org];
        elsif v_max_open[v_org] > 0 and v_open[v_org] >= v_max_open[v_org] then
            verdict[v_item] := 'too_many_tasks'; available[v_item] := v_available[v_org];
        else
            v_caller := case when v_any_budgets then v_caller_of[v_item] else 0 end;
            if v_caller > 0 then
                v_least := null;
                for v_at in v_first[v_caller]..v_last[v_caller] loop
                    v_least := least(v_least, v_left[v_draw[v_at]]);
                end loop;
                if p_amount[v_item] > v_least then
                    verdict[v_item] := 'over_budget';
                    -- of several, the narrowest is named
                    for v_at in reverse v_last[v_caller]..v_first[v_caller] loop
                        if p_amount[v_item] > v_left[v_draw[v_at]] then
                            available[v_item] := v_left[v_draw[v_at]];
                            reference[v_item] := v_plan.budget_id[v_draw[v_at]];
                        end if;
                    end loop;
                    continue;
                end if;
                for v_at in v_first[v_caller]..v_last[v_caller] loop
                    v_left[v_draw[v_at]] := v_left[v_draw[v_at]] - p_amount[v_item];
                end loop;
                v_budget_after[v_item] := v_least - p_amount[v_item];
            end if;
            v_available[v_org] := v_available[v_org] - p_amount[v_item];
            v_taken[v_org] := v_taken[v_org] + p_amount[v_item];
            v_open[v_org] := v_open[v_org] + 1;
            v_granted[v_org] := v_granted[v_org] + 1;
            verdict[v_item] := 'granted'; available[v_item] := v_available[v_org];
        end if;
    end loop;

    insert into hold (org_id, hold_id, user_id, key_id, team_id, amount, list_price, factor_bp, price_book, balance_after,
                      overdraft, task_type, backend, account, owner, fingerprint, idem_key, windows, budget_after,
                      created_at, seal)
    select p_orgs[item.pos], item.hold_id, item.user_id, item.key_id, item.team_id, item.amount, item.list, item.factor,
           item.book, item.after, v_overdraft[item.pos], item.type, item.backend, item.account, p_owner, item.fingerprint,
           item.idem, v_windows[item.caller]::bigint[], item.budget_after, v_now,
           hold_seal(p_orgs[item.pos], item.hold_id, item.user_id, item.key_id, item.team_id, item.amount, item.list,
                     item.factor, item.book, item.after, v_overdraft[item.pos], v_windows[item.caller]::bigint[],
                     item.budget_after, item.type, item.backend, item.account, p_owner, item.fingerprint, item.idem)
    from unnest(p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend, p_account,
                p_fingerprint, p_idem, verdict, available, v_team, v_caller_of, v_budget_after)
         as item(pos, hold_id, user_id, key_id, amount, list, factor, book, type, backend, account,
                 fingerprint, idem, verdict, after, team_id, caller, budget_after)
    where item.verdict = 'granted';

    insert into open_task (org_id, hold_id, state, backend, account, owner, due_at, unanswered)
    select p_orgs[item.pos], item.hold_id, 'HELD', item.backend, item.account, p_owner,
           v_now + p_lease_ms * interval '1 millisecond', case when item.idem is null then item.fingerprint end
    from unnest(p_pos, p_hold, p_backend, p_account, p_fingerprint, p_idem, verdict)
         as item(pos, hold_id, backend, account, fingerprint, idem, verdict)
    where item.verdict = 'granted';

    if true = any(p_keyed) then
        insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, created_at)
        select p_orgs[item.pos], 'generate', item.idem, item.fingerprint, item.hold_id, v_now
        from unnest(p_pos, p_hold, p_fingerprint, p_idem, verdict) as item(pos, hold_id, fingerprint, idem, verdict)
        where item.verdict = 'granted' and item.idem is not null;
    end if;

    update org_balance balance
    set available = balance.available - org.taken, held = balance.held + org.taken, open_tasks = org.open
    from unnest(v_balance_at, v_taken, v_open, v_granted) as org(at, taken, open, granted)
    where balance.ctid = org.at and org.granted > 0;

    if v_any_budgets then
        update budget_window spent set held = spent.held + (drawn.before - drawn.remains)
        from unnest(v_window_at, v_before, v_left) drawn(at, before, remains)
        where spent.ctid = drawn.at and drawn.remains < drawn.before;
        get diagnostics v_changed = row_count;
        if v_changed <> (select count(*) from unnest(v_before, v_left) drawn(before, remains) where drawn.remains < drawn.before) then
            raise exception 'a budget window was changed without its balance row' using errcode = 'serialization_failure';
        end if;
        for v_row in
            select drawn.pos, array_agg(drawn.window_id) as windows
            from unnest(v_plan.pos, v_window, v_before, v_left, v_alert) drawn(pos, window_id, before, remains, alert)
            where drawn.remains < drawn.before and drawn.remains <= drawn.alert group by drawn.pos
        loop
            perform raise_budget_events(p_orgs[v_row.pos], v_row.windows, v_now);
        end loop;
    end if;
end $$;
