-- Balances, holds, entries: the ledger. What each state and entry means is told in src/store.rs.

-- The hot row of an organisation. No foreign key may point here and no second index may exist: each would multiply the
-- cost of every reservation. The free space keeps updates on their own page.
create table org_balance (
    org_id         uuid primary key,
    available      bigint not null default 0,
    held           bigint not null default 0 check (held >= 0),
    consumed       bigint not null default 0,
    granted        bigint not null default 0,
    overdraft      bigint not null default 0 check (overdraft >= 0),
    open_tasks     integer not null default 0 check (open_tasks >= 0),
    in_doubt       integer not null default 0 check (in_doubt >= 0),
    -- null: the gateway's default; 0: no limit
    max_open_tasks integer check (max_open_tasks >= 0),
    -- 0: no budget counts for the organisation, and a reservation need not look for one. Else a number that no earlier
    -- state of its budgets had.
    budgets        bigint not null default 0,
    -- whether it ever had a team: a reservation of an organisation without need not look for the teams of its users
    teams          boolean not null default false
) with (fillfactor = 50);

create table hold (
    org_id        uuid not null,
    hold_id       uuid not null,
    user_id       uuid not null,
    key_id        uuid,
    -- of the user, when the hold was made: people move between teams, what was spent stays where it was spent
    team_id       uuid,
    state         text not null default 'HELD'
        check (state in ('HELD', 'RUNNING', 'IN_DOUBT', 'SETTLED', 'RELEASED', 'WRITTEN_OFF')),
    -- evidence after the end: its task id is known and it is polled ('open'), it was charged by a correcting entry
    -- ('charged'), it is the platform's loss ('lost'), or it never ended ('given_up')
    late          text check (late in ('open', 'charged', 'lost', 'given_up')),
    amount        bigint not null check (amount >= 0),
    list_price    bigint not null check (list_price >= 0),
    factor_bp     integer not null,
    price_book    integer not null,
    -- what was available after this admission, and how far below zero it was allowed to go
    balance_after bigint not null,
    overdraft     bigint not null,
    -- the budget windows it was counted in: whatever becomes of it is counted there
    windows       bigint[],
    -- the least that was left in one of them after this admission
    budget_after  bigint,
    task_type     text not null,
    backend       text not null,
    account       text not null,
    -- the gateway that made it
    owner         uuid not null,
    fingerprint   bytea not null,
    idem_key      text,
    upstream_task text,
    -- the last valid figure the upstream reported, before the factor
    raw_consumed  bigint,
    -- the upstream's last figure, as it stood in its answers
    reported      bigint,
    -- what we booked (charge or loss, before the factor) less what the upstream reported; null while it is open
    drift         bigint,
    charged       bigint,
    reason        text,
    -- the upstream's last `data`, verbatim
    data          text,
    created_at    timestamptz not null,
    recorded_at   timestamptz,
    -- when the last doubt began
    doubt_at      timestamptz,
    ended_at      timestamptz,
    due_at        timestamptz not null,
    polls         integer not null default 0,
    primary key (org_id, hold_id),
    check (state <> 'RUNNING' or upstream_task is not null),
    check ((state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF')) = (ended_at is not null)),
    check ((state = 'SETTLED') = (charged is not null)),
    constraint hold_doubt_has_begun check (state <> 'IN_DOUBT' or doubt_at is not null),
    constraint hold_late_after_end check (late is null or state in ('RELEASED', 'WRITTEN_OFF'))
) with (fillfactor = 85);
create unique index hold_by_upstream_task on hold (upstream_task, account) where upstream_task is not null;
create index hold_in_doubt on hold (org_id, key_id, fingerprint) where state = 'IN_DOUBT';
-- Each open hold stands in one of these. Tasks are claimed organisation by organisation and backend by backend, so that
-- none waits for the backlog of another.
create index hold_unrecorded on hold (owner, due_at) where state = 'HELD';
create index hold_pollable on hold (org_id, backend, due_at)
    where state = 'RUNNING' or (state = 'IN_DOUBT' and upstream_task is not null);
create index hold_late on hold (due_at) where late = 'open';
create index hold_drift on hold (ended_at) where drift <> 0;
-- Nearly free to keep: rows are added in the order of their age.
create index hold_age on hold using brin (created_at);

-- The life of a hold as data: what may follow what. The only way a state changes (function transition_batch).
create table transition (
    kind       text not null,
    from_state text not null,
    to_state   text not null,
    from_late  text,
    to_late    text,
    primary key (kind, from_state)
);
insert into transition (kind, from_state, to_state) values
    ('run',       'HELD',     'RUNNING'),
    ('run',       'IN_DOUBT', 'RUNNING'),
    ('settle',    'RUNNING',  'SETTLED'),
    ('settle',    'IN_DOUBT', 'SETTLED'),
    -- the upstream accepted the task and then failed it
    ('fail',      'RUNNING',  'RELEASED'),
    ('fail',      'IN_DOUBT', 'RELEASED'),
    -- the upstream never took it: the idempotency key is free again
    ('refuse',    'HELD',     'RELEASED'),
    ('refuse',    'IN_DOUBT', 'RELEASED'),
    -- granted, but its caller no longer waits and it was never sent. The gateway that made it knows that, even if another
    -- gateway has taken it for dead meanwhile.
    ('abandon',   'HELD',     'RELEASED'),
    ('abandon',   'IN_DOUBT', 'RELEASED'),
    -- HELD past its time, and its own gateway does not work on it: it was never sent
    ('sweep',     'HELD',     'RELEASED'),
    ('doubt',     'HELD',     'IN_DOUBT'),
    ('doubt',     'RUNNING',  'IN_DOUBT'),
    -- its gateway is dead; what was recorded since it was seen HELD is left alone
    ('orphan',    'HELD',     'IN_DOUBT'),
    ('write_off', 'IN_DOUBT', 'WRITTEN_OFF');
insert into transition (kind, from_state, to_state, from_late, to_late) values
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

-- What moved credits, signed for the organisation; rows are only added. Entries of an organisation are dated under its
-- balance row, in the order they are committed in. A consume's entry_id is its hold_id: a second one cannot exist.
create table entry (
    org_id        uuid not null,
    entry_id      uuid not null,
    kind          text not null check (kind in ('grant', 'adjust', 'transfer', 'expire', 'consume', 'correct')),
    amount        bigint not null,
    hold_id       uuid,
    -- counts the corrections of a hold
    seq           integer not null default 0,
    -- of a charge, what exceeds the hold
    overrun       bigint not null default 0 check (overrun >= 0),
    user_id       uuid,
    key_id        uuid,
    team_id       uuid,
    task_type     text,
    reason        text,
    external_ref  text,
    -- of a transfer its other half, in the other organisation; of an `expire` the grant that ran out
    related_entry uuid,
    actor         text,
    created_at    timestamptz not null,
    primary key (org_id, entry_id),
    check ((kind in ('consume', 'correct')) = (hold_id is not null)),
    check (kind <> 'grant' or amount > 0),
    check (kind <> 'consume' or (amount <= 0 and entry_id = hold_id)),
    constraint entry_of_a_task check ((kind in ('consume', 'correct')) = (task_type is not null)),
    constraint entry_expire check (kind <> 'expire' or (amount < 0 and related_entry is not null)),
    constraint entry_transfer check (kind <> 'transfer' or (amount <> 0 and related_entry is not null))
);
create unique index entry_correction on entry (org_id, hold_id, seq) where kind = 'correct';
-- Statements, lists, sums over a time. Entries come in the order of time: the index grows at the end of each organisation.
create index entry_by_time on entry (org_id, created_at, entry_id) include (kind, amount);
create index entry_by_reference on entry (org_id, external_ref) where external_ref is not null;
-- Finds the few entries that are no charges among millions of charges.
create index entry_no_charge on entry (org_id, created_at, entry_id) where kind <> 'consume';

-- What the upstream took and no tenant pays. Positive, in upstream credits (no factor).
create table platform_loss (
    org_id     uuid not null,
    hold_id    uuid not null,
    seq        integer not null default 0,
    amount     bigint not null,
    -- false: the upstream said so itself; true: it may have happened
    possible   boolean not null,
    reason     text not null,
    created_at timestamptz not null,
    primary key (org_id, hold_id, seq)
);

-- Keys of operators stand under the nil organisation.
create table idempotency (
    org_id      uuid not null,
    endpoint    text not null,
    key         text not null,
    fingerprint bytea not null,
    -- the hold of a create; the entry of a money call
    hold_id     uuid not null,
    status      integer,
    answer      text,
    created_at  timestamptz not null,
    primary key (org_id, endpoint, key)
);
-- Nearly free to keep: rows are added in the order of their age.
create index idempotency_age on idempotency using brin (created_at);

-- One row for each run of a gateway; a hold's owner is one of them.
create table gateway (
    gateway_id  uuid primary key,
    started_at  timestamptz not null,
    alive_until timestamptz not null
);

-- The periodic audit: which gateway runs it now, and its newest result for every gateway. One row.
create table audit_run (
    only_one   boolean primary key default true check (only_one),
    -- begun so far
    runs       bigint not null default 0,
    -- which gateway began the last run
    gateway    uuid,
    -- no other run begins earlier: while one may be under way, and until the audit has been idle for long enough
    not_before timestamptz not null default '-infinity',
    -- of the last run that came to its end
    started_at timestamptz,
    ended_at   timestamptz,
    seconds    double precision,
    -- rows that broke each check, as {"check": rows}; checks that hold are left out
    breaches   jsonb not null default '{}'
);
insert into audit_run default values;
