-- What goes on is apart from what has ended. A row of `open_task` lives as long as its task goes on: whatever claims, polls and
-- steps looks at it. A row of `hold` is inserted once, and updated once, with what the task has come to; no index has a column
-- of that update, so that it stays on its page. What stood in `hold` about tasks that go on is in the view `task`, beside all
-- else.
--
-- Every task that goes on is copied, and every hold is read twice: creates wait for some seconds for a million holds.

create table open_task (
    org_id        uuid not null,
    hold_id       uuid not null,
    state         text not null,
    -- whether it had ended before: its state then is that of its hold, and `hold.late` is 'open'
    reopened      boolean not null default false,
    backend       text not null,
    account       text not null,
    -- the gateway that made it
    owner         uuid not null,
    upstream_task text,
    -- the last valid figure the upstream reported, before the factor
    raw_consumed  bigint,
    -- the upstream's last figure, as it stood in its answers
    reported      bigint,
    reason        text,
    recorded_at   timestamptz,
    -- when the last doubt began
    doubt_at      timestamptz,
    -- in doubt: the fingerprint of its body, if its user may not send that body again meanwhile
    guarded       bytea,
    due_at        timestamptz not null,
    polls         integer not null default 0,
    primary key (org_id, hold_id),
    constraint open_task_state check (
        state in ('HELD', 'RUNNING', 'IN_DOUBT') and (state <> 'RUNNING' or upstream_task is not null)
        and (state <> 'IN_DOUBT' or doubt_at is not null) and (not reopened or state = 'RUNNING'))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.05);

insert into open_task (org_id, hold_id, state, reopened, backend, account, owner, upstream_task, raw_consumed, reported, reason,
                       recorded_at, doubt_at, guarded, due_at, polls)
select org_id, hold_id, case when late = 'open' then 'RUNNING' else state end, late is not distinct from 'open', backend,
       account, owner, upstream_task, raw_consumed, reported, reason, recorded_at, doubt_at,
       case when state = 'IN_DOUBT' and idem_key is null then fingerprint end, due_at, polls
from hold where state in ('HELD', 'RUNNING', 'IN_DOUBT') or late = 'open';

-- Tasks are claimed organisation by organisation and backend by backend, so that none waits for the backlog of another.
create index open_task_pollable on open_task (org_id, backend, due_at) where upstream_task is not null and not reopened;
create index open_task_reopened on open_task (due_at) where reopened;
create index open_task_unrecorded on open_task (owner, due_at) where state = 'HELD';
create index open_task_in_doubt on open_task (doubt_at) where state = 'IN_DOUBT';
create index open_task_guarded on open_task (org_id, guarded) where guarded is not null;

-- The vendor's ids of tasks. Two creates never share one.
create table vendor_task (
    upstream_task text not null,
    account       text not null,
    org_id        uuid not null,
    hold_id       uuid not null,
    primary key (upstream_task, account)
);
insert into vendor_task (upstream_task, account, org_id, hold_id)
select upstream_task, account, org_id, hold_id from hold where upstream_task is not null;

-- Tasks that no tenant paid for when they ended: few among many, and lists of them must not read the others.
create table unpaid_task (
    org_id  uuid not null,
    hold_id uuid not null,
    user_id uuid not null,
    key_id  uuid,
    primary key (org_id, hold_id)
);
insert into unpaid_task (org_id, hold_id, user_id, key_id)
select org_id, hold_id, user_id, key_id from hold where state in ('RELEASED', 'WRITTEN_OFF');
create index unpaid_task_by_user on unpaid_task (org_id, user_id, hold_id);
create index unpaid_task_by_key on unpaid_task (org_id, key_id, hold_id) where key_id is not null;

-- Tasks of which the upstream reported something else than was booked.
create table drifted_task (
    org_id   uuid not null,
    hold_id  uuid not null,
    ended_at timestamptz not null,
    primary key (org_id, hold_id)
);
insert into drifted_task (org_id, hold_id, ended_at) select org_id, hold_id, ended_at from hold where drift <> 0;
create index drifted_task_by_end on drifted_task (ended_at);

drop view if exists reporting.open_tasks;
drop index hold_by_upstream_task, hold_in_doubt, hold_unrecorded, hold_pollable, hold_late, hold_drift, hold_unpaid;
-- null: it has not ended
alter table hold alter column state drop not null, alter column state drop default;
alter table hold drop constraint hold_check, drop constraint hold_check1, drop constraint hold_check2,
    drop constraint hold_doubt_has_begun, drop constraint hold_late_after_end;
update hold set state = null, upstream_task = null, raw_consumed = null, reported = null, reason = null, recorded_at = null,
                doubt_at = null
where state in ('HELD', 'RUNNING', 'IN_DOUBT');
alter table hold drop column data, drop column due_at, drop column polls,
    add constraint hold_end check (
        (state is null) = (ended_at is null)
        and (state is null or state in ('SETTLED', 'RELEASED', 'WRITTEN_OFF'))
        and (state is not distinct from 'SETTLED') = (charged is not null)
        and (late is null or (state is not null and state in ('RELEASED', 'WRITTEN_OFF'))));
-- Room for the one update of each row on its own page.
alter table hold set (fillfactor = 65);
-- Lists of what a user or a key has made.
create index hold_by_user on hold (org_id, user_id, hold_id);
create index hold_by_key on hold (org_id, key_id, hold_id) where key_id is not null;

-- An end is stored beside the first answer: on its own page too, if no index knows of it. '-infinity': it is erased.
drop index content_to_erase;
update content set erase_at = '-infinity'
where erase_at = 'infinity' and ended and first is null and last is null;
create index content_to_erase on content (erase_at) where erase_at > '-infinity';
alter table content set (fillfactor = 60);

insert into schema_requirement values
    (16, 'gateways that do not know the table "open_task" look for tasks that go on where they are no longer');
