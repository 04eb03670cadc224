-- Labels of tasks: what callers count their tasks by. Written with the hold, in its transaction, and only added. The months have their
-- partitions from `make_partitions`, which `migrate` calls after its migrations; nothing waits.
create table label (
    org_id  uuid not null,
    hold_id uuid not null,
    name    text not null check (char_length(name) between 1 and 64),
    value   text not null check (char_length(value) between 1 and 128),
    primary key (org_id, hold_id, name)
) partition by range (hold_id);
create index label_by_value on label (org_id, name, value, hold_id);
create table label_other partition of label default;
