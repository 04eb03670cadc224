-- What the audit needs to know so that nothing can be taken away unseen.

-- What the end of the task cost the platform, for sure or possibly, in the vendor's credits: as much as platform_loss has of it.
-- null: it has not ended, or it ended before there was this column.
alter table hold add column lost bigint;

-- Keys of creates that were made before this may be gone: gateways say so before they delete. One row.
create table forgotten_keys (
    only_one    boolean primary key default true check (only_one),
    made_before timestamptz not null default now()
);
insert into forgotten_keys default values;
