-- The two calls of a lane. Arrays in arrival order in, one verdict an item out.
--
-- Locks: first the balance rows, in the order of p_orgs (the caller sorts it), then anything else. All that
-- changes an organisation's money does so under its balance row, so later statements of the same call read a
-- snapshot taken after the lock and cannot be overtaken.
--
-- Plans: a lane plans each statement once, perhaps while the tables are empty and any plan seems as good. What must
-- be looked up row by row is therefore written so that no other plan exists: a lateral subquery with a limit, and no
-- constant that an index alone could be scanned by.

-- verdict: 0 no such organisation, 1 granted, 2 not enough credits, 3 too many unfinished tasks, 4 idempotency key
-- taken (reference: its hold), 5 the same body is in doubt (reference: that hold), 6 the id was granted and has
-- ended since, 7 granted by an earlier sending of the same id. available: after the grant, or what was there.
create function reserve_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz,
    out verdict integer[], out available bigint[], out reference uuid[]
) language plpgsql as $$
declare
    v_items   constant integer := cardinality(p_hold);
    v_now     constant timestamptz := coalesce(p_now, clock_timestamp());
    v_avail   bigint[] := array_fill(null::bigint, array[cardinality(p_orgs)]);
    v_over    bigint[] := v_avail;
    v_taken   bigint[] := array_fill(0::bigint, array[cardinality(p_orgs)]);
    v_granted integer[] := array_fill(0, array[cardinality(p_orgs)]);
    v_open    integer[] := v_granted;
    v_max     integer[] := v_granted;
    v_doubts  integer[] := v_granted;
    v_doubt   boolean := false;
    v_want    boolean[] := array_fill(false, array[cardinality(p_orgs)]);
    v_any     boolean := false;
    o integer;
    r record;
begin
    verdict := array_fill(null::integer, array[v_items]);
    available := array_fill(null::bigint, array[v_items]);
    reference := array_fill(null::uuid, array[v_items]);

    -- A refusal must not touch the hot row: what cannot fit by a plain read is refused from it. Keyed items go on
    -- (a taken key is answered before the balance), those that may repeat one in doubt (so is that), and those
    -- that were sent before (they may have been granted).
    for r in select t.pos, b.available, b.overdraft, b.open_tasks, coalesce(b.max_open_tasks, p_max_open) as cap, b.in_doubt
             from unnest(p_orgs) with ordinality t(org_id, pos) join org_balance b on b.org_id = t.org_id
    loop
        v_avail[r.pos] := r.available; v_over[r.pos] := r.overdraft;
        v_open[r.pos] := r.open_tasks; v_max[r.pos] := r.cap; v_doubts[r.pos] := r.in_doubt;
    end loop;
    for i in 1..v_items loop
        o := p_pos[i];
        if v_avail[o] is null then
            verdict[i] := 0;
        elsif p_keyed[i] or p_resend or (p_guard[i] and v_doubts[o] > 0) then
            v_want[o] := true; v_any := true;
        elsif p_amount[i] - v_over[o] > v_avail[o] then
            verdict[i] := 2; available[i] := v_avail[o];
        elsif v_max[o] > 0 and v_open[o] >= v_max[o] then
            verdict[i] := 3; available[i] := v_avail[o];
        else
            v_want[o] := true; v_any := true;
        end if;
    end loop;
    if not v_any then return; end if;

    for r in select t.pos, b.available, b.overdraft, b.open_tasks, coalesce(b.max_open_tasks, p_max_open) as cap, b.in_doubt
             from unnest(p_orgs, v_want) with ordinality t(org_id, wanted, pos)
             join org_balance b on b.org_id = t.org_id
             where t.wanted order by t.pos for no key update of b
    loop
        v_avail[r.pos] := r.available; v_over[r.pos] := r.overdraft;
        v_open[r.pos] := r.open_tasks; v_max[r.pos] := r.cap;
        v_doubt := v_doubt or r.in_doubt > 0;
    end loop;

    if p_resend then
        for r in select i.ord, h.state, h.balance_after
                 from unnest(p_pos, p_hold) with ordinality i(pos, hold_id, ord)
                 join hold h on h.org_id = p_orgs[i.pos] and h.hold_id = i.hold_id
        loop
            verdict[r.ord] := case when r.state = 'HELD' then 7 else 6 end;
            available[r.ord] := r.balance_after;
        end loop;
    end if;

    if true = any(p_keyed) then
        for r in select i.ord, c.hold_id
                 from unnest(p_pos, p_idem) with ordinality i(pos, idem, ord)
                 cross join lateral (select c.hold_id from idempotency c
                     where c.org_id = p_orgs[i.pos] and c.endpoint = 'generate' and c.key = i.idem limit 1) c
        loop
            if verdict[r.ord] is null then
                verdict[r.ord] := 4; reference[r.ord] := r.hold_id;
            end if;
        end loop;
        -- the same key twice in one batch: the first in line has it
        for r in select k.ord from (
                     select i.ord, row_number() over (partition by i.pos, i.idem order by i.ord) as place
                     from unnest(p_pos, p_idem) with ordinality i(pos, idem, ord) where i.idem is not null) k
                 where k.place > 1
        loop
            if verdict[r.ord] is null then verdict[r.ord] := 4; end if;
        end loop;
    end if;

    if v_doubt then
        for r in select i.ord, h.hold_id
                 from unnest(p_pos, p_key, p_fingerprint, p_guard) with ordinality i(pos, key_id, fingerprint, guarded, ord)
                 cross join lateral (select h.hold_id from hold h
                     where h.org_id = p_orgs[i.pos] and h.key_id = i.key_id and h.fingerprint = i.fingerprint
                       and h.state = 'IN_DOUBT' and h.idem_key is null limit 1) h
                 where i.guarded
        loop
            if verdict[r.ord] is null then
                verdict[r.ord] := 5; reference[r.ord] := r.hold_id;
            end if;
        end loop;
    end if;

    -- In order of arrival; what does not fit does not block what comes behind it.
    for i in 1..v_items loop
        if verdict[i] is not null then continue; end if;
        o := p_pos[i];
        if p_amount[i] - v_over[o] > v_avail[o] then
            verdict[i] := 2; available[i] := v_avail[o];
        elsif v_max[o] > 0 and v_open[o] >= v_max[o] then
            verdict[i] := 3; available[i] := v_avail[o];
        else
            v_avail[o] := v_avail[o] - p_amount[i];
            v_taken[o] := v_taken[o] + p_amount[i];
            v_open[o] := v_open[o] + 1;
            v_granted[o] := v_granted[o] + 1;
            verdict[i] := 1; available[i] := v_avail[o];
        end if;
    end loop;

    insert into hold (org_id, hold_id, user_id, key_id, amount, list_price, factor_bp, price_book, balance_after,
                      overdraft, task_type, backend, account, owner, fingerprint, idem_key, created_at, due_at)
    select p_orgs[i.pos], i.hold_id, i.user_id, i.key_id, i.amount, i.list, i.factor, i.book, i.after,
           v_over[i.pos], i.type, i.backend, i.account, p_owner, i.fingerprint, i.idem, v_now,
           v_now + p_lease_ms * interval '1 millisecond'
    from unnest(p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend, p_account,
                p_fingerprint, p_idem, verdict, available)
         as i(pos, hold_id, user_id, key_id, amount, list, factor, book, type, backend, account,
              fingerprint, idem, verdict, after)
    where i.verdict = 1;

    if true = any(p_keyed) then
        insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, created_at)
        select p_orgs[i.pos], 'generate', i.idem, i.fingerprint, i.hold_id, v_now
        from unnest(p_pos, p_hold, p_fingerprint, p_idem, verdict) as i(pos, hold_id, fingerprint, idem, verdict)
        where i.verdict = 1 and i.idem is not null;
    end if;

    update org_balance b
    set available = b.available - t.taken, held = b.held + t.taken, open_tasks = t.open
    from unnest(p_orgs, v_taken, v_open, v_granted) as t(org_id, taken, open, granted)
    where b.org_id = t.org_id and t.granted > 0;
end $$;

-- Moves holds along the table `transition`, with their money, entries and idempotency records. applied: whether the
-- item changed anything; a hold that is unknown, or in no state the kind starts from, is left alone.
-- No hold may stand twice in one batch.
create function transition_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_kind text[], p_task text[],
    p_raw bigint[], p_charge bigint[], p_loss bigint[], p_possible boolean[],
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
        from unnest(p_pos, p_hold, p_kind, p_task, p_raw, p_charge, p_loss, p_possible, p_reason, p_data, p_answer, p_due_ms)
             with ordinality i(pos, hold_id, kind, task, raw, charge, loss, possible, reason, data, answer, due_ms, ord)
    ), moved as (
        update hold h set
            state = t.to_state,
            upstream_task = coalesce(i.task, h.upstream_task),
            raw_consumed = coalesce(i.raw, h.raw_consumed),
            charged = i.charge,
            reason = coalesce(i.reason, h.reason),
            data = coalesce(i.data, h.data),
            recorded_at = case when t.kind = 'run' then v_now else h.recorded_at end,
            ended_at = case when t.to_state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF') then v_now end,
            -- what nobody can be asked about is never due
            due_at = case when t.to_state = 'IN_DOUBT' and h.upstream_task is null then 'infinity'
                          else v_now + coalesce(i.due_ms, 0) * interval '1 millisecond' end,
            polls = case when t.kind = 'run' then 0 else h.polls end
        from item i join transition t on t.kind = i.kind
        where h.org_id = i.org_id and h.hold_id = i.hold_id and h.state = t.from_state
        returning h.org_id, h.hold_id, h.user_id, h.key_id, h.amount, h.idem_key, t.kind, t.from_state, t.to_state,
                  'generate'::text as endpoint, i.charge, i.loss, i.possible, i.reason, i.answer, i.ord
    ), consumed as (
        insert into entry (org_id, entry_id, kind, amount, hold_id, overrun, user_id, key_id, created_at)
        select org_id, hold_id, 'consume', -charge, hold_id, greatest(charge - amount, 0), user_id, key_id, v_now
        from moved where to_state = 'SETTLED'
    ), lost as (
        insert into platform_loss (org_id, hold_id, amount, possible, reason, created_at)
        select org_id, hold_id, loss, coalesce(possible, false), coalesce(reason, kind), v_now
        from moved where loss <> 0
    ), answered as (
        update idempotency c set status = 200, answer = m.answer
        from moved m
        where m.kind = 'run' and m.idem_key is not null
          and c.org_id = m.org_id and c.endpoint = m.endpoint and c.key = m.idem_key
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
                     coalesce(sum(amount) filter (where to_state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF')), 0)::bigint as freed,
                     coalesce(sum(charge) filter (where to_state = 'SETTLED'), 0)::bigint as charged,
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

-- One entry that is not a task's: a grant or an adjustment. Same key and same fingerprint: the first entry again.
-- outcome: posted, replayed, key_reused, unknown_org, insufficient.
create function post_credit(
    p_org uuid, p_entry uuid, p_kind text, p_amount bigint, p_reason text, p_actor text,
    p_idem text, p_fingerprint bytea,
    out outcome text, out entry_id uuid, out available bigint
) language plpgsql as $$
declare
    b org_balance%rowtype;
    c idempotency%rowtype;
begin
    select * into b from org_balance o where o.org_id = p_org for no key update;
    if not found then outcome := 'unknown_org'; return; end if;
    available := b.available;
    if p_idem is not null then
        select * into c from idempotency i where i.org_id = p_org and i.endpoint = 'credit' and i.key = p_idem;
        if found then
            outcome := case when c.fingerprint = p_fingerprint then 'replayed' else 'key_reused' end;
            entry_id := c.hold_id;
            return;
        end if;
    end if;
    if p_amount < 0 and b.available + p_amount < -b.overdraft then outcome := 'insufficient'; return; end if;
    insert into entry (org_id, entry_id, kind, amount, reason, actor, created_at)
    values (p_org, p_entry, p_kind, p_amount, p_reason, p_actor, clock_timestamp());
    update org_balance o set available = o.available + p_amount, granted = o.granted + p_amount where o.org_id = p_org;
    if p_idem is not null then
        insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, status, created_at)
        values (p_org, 'credit', p_idem, p_fingerprint, p_entry, 200, clock_timestamp());
    end if;
    outcome := 'posted'; entry_id := p_entry; available := b.available + p_amount;
end $$;
