-- Content: what the vendor said about a task. It is not money: it stands in no batch of the ledger, and can be erased without a
-- change to a balance, an entry or what the audit says.
--
-- hold.data moves here. Neither it nor idempotency.answer of a create is written or read any more; a later migration drops the
-- column. All of `hold` is rewritten where there is data: creates wait for some seconds for a million holds.
create table content (
    org_id     uuid not null,
    hold_id    uuid not null,
    -- the vendor's `data` of its answer to the create, verbatim: what a repetition with the same idempotency key is answered from
    first      text,
    -- the vendor's newest `data` since then, verbatim
    last       text,
    -- whether `last` is the vendor's report of the end
    ended      boolean not null default false,
    -- null: it is kept for as many days as its organisation keeps content. Else nothing is kept after the end, and this is when
    -- it is erased; 'infinity' until the end is known, and once it is erased.
    erase_at   timestamptz,
    updated_at timestamptz not null default now(),
    primary key (org_id, hold_id)
);
create index content_to_erase on content (erase_at)
    where erase_at is not null and (first is not null or last is not null);

insert into content (org_id, hold_id, last, ended)
select org_id, hold_id, data, ended_at is not null from hold where data is not null;
update hold set data = null where data is not null;
update idempotency set answer = null where endpoint = 'generate' and answer is not null;

-- How many days an organisation keeps content; null: as many as the platform.
alter table org add column content_days integer check (content_days between 0 and 3650);

insert into schema_requirement values
    (14, 'gateways that do not know the table "content" store what the vendor says where newer ones do not look');
