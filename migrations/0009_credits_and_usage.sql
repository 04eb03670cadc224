-- Credits that run out, transfers between organisations, usage by day.
--
-- Replicas that know only the migrations before this one go on: what they post is counted by the triggers below.
--
-- What waits: from `lock table` on to the end nothing can be added to `entry`, so charges and grants wait, and behind them
-- reservations of the same organisations; reads and everything else go on. It ends after some seconds per million
-- entries. It cannot be less: what is added while the days are filled would be counted twice or never. The columns of
-- `entry` that this needs come with migration 11, which locks everybody out of it, but for a moment only.

-- Now, and not when the trigger is made: nothing that is locked below may be had by a stronger lock later, or those who
-- read first and then write would stand in a circle with this.
lock table entry in share row exclusive mode;

-- Statements, lists, sums over a time. Entries come in the order of time: it grows at the end of each organisation.
create index entry_by_time on entry (org_id, created_at, entry_id) include (kind, amount);
create index entry_by_reference on entry (org_id, external_ref) where external_ref is not null;
-- What is no charge is looked for among millions of charges.
create index entry_no_charge on entry (org_id, created_at, entry_id) where kind <> 'consume';

-- A grant that runs out. src/ledger/lots.rs says what burns it.
create table credit_lot (
    org_id     uuid not null,
    -- the grant
    entry_id   uuid not null,
    amount     bigint not null check (amount > 0),
    expires_at timestamptz not null,
    -- whether the job that attributes what was spent has come to this grant
    counted    boolean not null default false,
    burned     bigint not null default 0 check (burned >= 0),
    expired    bigint not null default 0 check (expired >= 0),
    primary key (org_id, entry_id),
    foreign key (org_id, entry_id) references entry,
    check (burned <= amount - expired),
    check (counted or (burned = 0 and expired = 0))
);
create index credit_lot_left on credit_lot (org_id, expires_at, entry_id) where burned + expired < amount;

-- Of an organisation with such grants: all other credits, less what was spent and burned no grant. Below zero: spent
-- before it was there, and paid by what comes next.
create table credit_pool (
    org_id uuid primary key,
    credits bigint not null
);

-- Entries of such an organisation that are not attributed yet, in the order of the journal: they are added, and taken
-- away, under its balance row.
create table credit_event (
    org_id   uuid not null,
    place    bigint generated always as identity,
    entry_id uuid not null,
    primary key (org_id, place)
);

-- What tasks cost, by the day (UTC) of the entry. Kept by a trigger on entry, under the organisation's balance row.
-- The nil id stands for none: a caller without a key, a user without a team.
create table usage_day (
    org_id    uuid not null,
    day       date not null,
    user_id   uuid not null,
    team_id   uuid not null,
    key_id    uuid not null,
    task_type text not null,
    -- settled and charged
    tasks     bigint not null,
    charged   bigint not null,
    -- charged by later corrections
    corrected bigint not null,
    primary key (org_id, day, user_id, team_id, key_id, task_type)
) with (fillfactor = 70);
create index usage_day_by_day on usage_day (day);

create function count_entries() returns trigger language plpgsql as $$
declare
    v_none constant uuid := '00000000-0000-0000-0000-000000000000';
begin
    -- fires for every batch, also for one that ends nothing
    perform 1 from new_entry limit 1;
    if not found then return null; end if;

    insert into usage_day as u
    select n.org_id, (n.created_at at time zone 'UTC')::date, coalesce(n.user_id, v_none),
           coalesce(n.team_id, h.team_id, v_none), coalesce(n.key_id, v_none), coalesce(n.task_type, h.task_type, ''),
           count(*) filter (where n.kind = 'consume'),
           coalesce(-sum(n.amount) filter (where n.kind = 'consume'), 0)::bigint,
           coalesce(-sum(n.amount) filter (where n.kind = 'correct'), 0)::bigint
    from new_entry n left join lateral (
        -- what older replicas write has its team and type on the hold only
        select h.team_id, h.task_type from hold h
        where n.task_type is null and h.org_id = n.org_id and h.hold_id = n.hold_id limit 1) h on true
    where n.kind in ('consume', 'correct')
    group by 1, 2, 3, 4, 5, 6
    on conflict on constraint usage_day_pkey do update
    set tasks = u.tasks + excluded.tasks, charged = u.charged + excluded.charged, corrected = u.corrected + excluded.corrected;

    insert into credit_event (org_id, entry_id)
    select n.org_id, n.entry_id from new_entry n join credit_pool p using (org_id) where n.kind <> 'expire';
    return null;
end $$;
create trigger entry_counted after insert on entry referencing new table as new_entry
    for each statement execute function count_entries();

-- What was there before.
insert into usage_day
select e.org_id, (e.created_at at time zone 'UTC')::date, coalesce(e.user_id, v.none), coalesce(e.team_id, h.team_id, v.none),
       coalesce(e.key_id, v.none), coalesce(e.task_type, h.task_type, ''), count(*) filter (where e.kind = 'consume'),
       coalesce(-sum(e.amount) filter (where e.kind = 'consume'), 0)::bigint,
       coalesce(-sum(e.amount) filter (where e.kind = 'correct'), 0)::bigint
from (values ('00000000-0000-0000-0000-000000000000'::uuid)) v(none), entry e left join hold h using (org_id, hold_id)
where e.kind in ('consume', 'correct')
group by 1, 2, 3, 4, 5, 6;

-- After the days are filled: it locks changes of organisations out.
-- Below which an organisation is warned. Not on the hot row: nobody looks at it when credits are held.
create table credit_setting (
    org_id        uuid primary key references org,
    -- null: nobody wants to know
    low_threshold bigint check (low_threshold >= 0),
    version       integer not null default 1
);
create trigger credit_setting_version before update on credit_setting
    for each row execute function next_version();
create trigger credit_setting_audit after insert or update or delete on credit_setting
    for each row execute function audit_change('org', 'org_id');

-- One entry that is not a task's. outcome: posted, unknown_org, deleted_org, in_the_past, insufficient. available: after
-- it, or what was there. What is taken back may use the overdraft; what is given to others may not.
create function post_entry(
    p_org uuid, p_entry uuid, p_kind text, p_amount bigint, p_reason text, p_external_ref text, p_expires_at timestamptz,
    p_related uuid, p_actor text, p_now timestamptz,
    out outcome text, out available bigint
) language plpgsql as $$
declare
    v_now timestamptz;
    b org_balance%rowtype;
begin
    select * into b from org_balance o where o.org_id = p_org for no key update;
    if not found then outcome := 'unknown_org'; return; end if;
    -- not before the wait for the row: entries of an organisation are dated in the order they are committed in
    v_now := coalesce(p_now, clock_timestamp());
    available := b.available;
    if exists (select from org o where o.org_id = p_org and o.deleted_at is not null) then
        outcome := 'deleted_org'; return;
    end if;
    if p_expires_at <= v_now then outcome := 'in_the_past'; return; end if;
    if p_amount < 0 and b.available + p_amount < (case p_kind when 'transfer' then 0 else -b.overdraft end) then
        outcome := 'insufficient'; return;
    end if;
    if p_expires_at is not null then
        insert into credit_pool (org_id, credits) values (p_org, b.granted - b.consumed) on conflict do nothing;
    end if;
    insert into entry (org_id, entry_id, kind, amount, reason, external_ref, related_entry, actor, created_at)
    values (p_org, p_entry, p_kind, p_amount, p_reason, p_external_ref, p_related, p_actor, v_now);
    if p_expires_at is not null then
        insert into credit_lot (org_id, entry_id, amount, expires_at) values (p_org, p_entry, p_amount, p_expires_at);
    end if;
    update org_balance o set available = o.available + p_amount, granted = o.granted + p_amount where o.org_id = p_org;
    outcome := 'posted'; available := b.available + p_amount;
end $$;

-- Attributes up to p_limit entries of the organisation to its grants that run out; when none is left to attribute,
-- takes back what has run out. more: some were left. expired: credits taken back.
create function expire_credits(p_org uuid, p_limit integer, p_actor text, p_now timestamptz,
                               out more boolean, out expired bigint) language plpgsql as $$
declare
    v_now  timestamptz;
    b org_balance%rowtype;
    v_pool bigint;
    v_ids  uuid[];
    v_ends timestamptz[];
    v_left bigint[];
    v_live boolean[];
    v_burned  bigint[];
    v_expired bigint[];
    v_last bigint;
    v_seen integer := 0;
    v_rest bigint;
    v_part bigint;
    v_room bigint;
    v_open numeric;
    v_kept numeric := 0;
    i integer;
    r record;
begin
    more := false; expired := 0;
    select * into b from org_balance o where o.org_id = p_org for no key update;
    v_now := coalesce(p_now, clock_timestamp());
    select p.credits into v_pool from credit_pool p where p.org_id = p_org;
    if not found then return; end if;

    select coalesce(array_agg(l.entry_id order by l.expires_at, l.entry_id), '{}'),
           coalesce(array_agg(l.expires_at order by l.expires_at, l.entry_id), '{}'),
           coalesce(array_agg(l.amount - l.burned - l.expired order by l.expires_at, l.entry_id), '{}'),
           coalesce(array_agg(l.counted order by l.expires_at, l.entry_id), '{}')
    into v_ids, v_ends, v_left, v_live
    from credit_lot l where l.org_id = p_org and l.burned + l.expired < l.amount;
    v_burned := array_fill(0::bigint, array[cardinality(v_ids)]);
    v_expired := v_burned;

    for r in select q.place, n.entry_id, n.amount, coalesce(h.created_at, n.created_at) as spent_at
             from (select * from credit_event q where q.org_id = p_org order by q.place limit p_limit) q
             cross join lateral (select * from entry n where n.org_id = p_org and n.entry_id = q.entry_id limit 1) n
             left join lateral (select h.created_at from hold h
                 where h.org_id = p_org and h.hold_id = n.hold_id limit 1) h on true
             order by q.place
    loop
        v_seen := v_seen + 1; v_last := r.place;
        i := array_position(v_ids, r.entry_id);
        if i is not null then
            -- what was spent before it was there is paid first
            v_part := least(v_left[i], greatest(-v_pool, 0));
            v_live[i] := true;
            v_left[i] := v_left[i] - v_part; v_burned[i] := v_burned[i] + v_part;
            v_pool := v_pool + v_part;
        elsif r.amount >= 0 then
            v_pool := v_pool + r.amount;
        else
            v_rest := -r.amount;
            for i in 1..cardinality(v_ids) loop
                exit when v_rest = 0;
                if v_live[i] and v_ends[i] > r.spent_at and v_left[i] > 0 then
                    v_part := least(v_left[i], v_rest);
                    v_left[i] := v_left[i] - v_part; v_burned[i] := v_burned[i] + v_part;
                    v_rest := v_rest - v_part;
                end if;
            end loop;
            v_pool := v_pool - v_rest;
        end if;
    end loop;
    delete from credit_event q where q.org_id = p_org and q.place <= v_last;
    more := v_seen = p_limit;

    if not more then
        v_room := greatest(b.available, 0);
        for i in 1..cardinality(v_ids) loop
            exit when v_ends[i] > v_now;
            -- Open holds from before the end may still burn it: as many of them as no earlier grant is kept for.
            v_open := 0;
            if b.held > 0 then
                select coalesce(sum(h.amount), 0) into v_open from (
                    select h.amount, h.created_at from hold h where h.org_id = p_org and h.state = 'HELD'
                    union all select h.amount, h.created_at from hold h where h.org_id = p_org and h.state = 'RUNNING'
                    union all select h.amount, h.created_at from hold h where h.org_id = p_org and h.state = 'IN_DOUBT') h
                where h.created_at < v_ends[i];
            end if;
            v_part := least(v_left[i], greatest(v_open - v_kept, 0));
            v_kept := v_kept + v_part;
            v_part := least(v_left[i] - v_part, v_room);
            continue when v_part = 0;
            insert into entry (org_id, entry_id, kind, amount, reason, related_entry, actor, created_at)
            values (p_org, gen_random_uuid(), 'expire', -v_part, 'expired', v_ids[i], p_actor, v_now);
            v_expired[i] := v_part; v_left[i] := v_left[i] - v_part;
            v_room := v_room - v_part; expired := expired + v_part;
        end loop;
        if expired > 0 then
            update org_balance o set available = o.available - expire_credits.expired, granted = o.granted - expire_credits.expired
            where o.org_id = p_org;
        end if;
    end if;

    update credit_lot l set counted = t.live, burned = l.burned + t.burned, expired = l.expired + t.expired
    from unnest(v_ids, v_live, v_burned, v_expired) as t(entry_id, live, burned, expired)
    where l.org_id = p_org and l.entry_id = t.entry_id
      and (t.burned > 0 or t.expired > 0 or t.live <> l.counted);
    if not more and not exists (select from unnest(v_left) as t(amount) where t.amount > 0) then
        -- nothing can run out any more: from now on its entries need not be attributed
        delete from credit_pool p where p.org_id = p_org;
    else
        update credit_pool p set credits = v_pool where p.org_id = p_org and p.credits <> v_pool;
    end if;
end $$;
