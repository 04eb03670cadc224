create or replace trigger entry_append_only before update or delete on entry
    for each row execute function refuse_change();
create or replace trigger entry_no_truncate before truncate on entry
    for each statement execute function refuse_change();
create or replace trigger entry_audit after insert on entry
    for each row when (new.kind not in ('consume', 'correct')) execute function audit_change('entry', 'entry_id');
create or replace trigger entry_counted after insert on entry referencing new table as new_entry
    for each statement execute function count_entries();
create or replace trigger entry_placed before insert on entry
    for each row when (new.place is null) execute function place_entry();
