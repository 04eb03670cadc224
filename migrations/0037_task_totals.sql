-- Sums of charged tasks for the platform's reports (drift, what-if), so that they need not read every task. Kept by the job that adds up
-- entries (functions/credits/add_tasks_to_totals.sql), beside the ledger: no row is locked that a create or an end waits for. This
-- migration takes a moment, in which ends of tasks wait.

-- Up to which place of each organisation's entries the tasks are in the sums.
create table task_place (
    org_id uuid primary key,
    place  bigint not null check (place >= 0)
) with (fillfactor = 50);

-- Whoever changes the sums holds this row: one gateway at a time, or what takes a month out of the database or puts it back.
create table task_turn (
    only_one boolean primary key default true check (only_one)
);
insert into task_turn default values;

-- Charged tasks by the hour (UTC) in which they were made, and by what they were priced with. Kept for 100 days.
create table price_total (
    at         timestamptz not null,
    org_id     uuid not null,
    task_type  text not null,
    price_book integer not null,
    list_price bigint not null,
    factor_bp  integer not null,
    tasks      bigint not null,
    charged    bigint not null,
    primary key (at, org_id, task_type, price_book, list_price, factor_bp)
) with (fillfactor = 70);

-- Charged tasks by the hour (UTC) in which they ended, in the vendor's credits. The vendor may report any number.
create table drift_total (
    at         timestamptz not null,
    account    text not null,
    task_type  text not null,
    price_book integer not null,
    tasks      bigint not null,
    charged    numeric not null,
    reported   numeric not null,
    drift      numeric not null,
    -- tasks with a drift
    differing  bigint not null,
    -- tasks that consumed another figure than their list price; what was listed, and what was consumed
    unlike     bigint not null,
    listed     numeric not null,
    consumed   numeric not null,
    primary key (at, account, task_type, price_book)
) with (fillfactor = 50);

-- Tasks that nobody paid for when they ended: their holds change with late evidence, so that they are in no sums. Null: the job has not
-- looked at the hold yet.
alter table unpaid_task
    add column ended_at timestamptz,
    add column account  text,
    -- whether the hold has, or may come to have, figures of the vendor that are not 0
    add column figures  boolean;
