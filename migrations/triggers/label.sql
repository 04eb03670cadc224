create or replace trigger label_append_only before update or delete on label
    for each row execute function refuse_change();
create or replace trigger label_no_truncate before truncate on label
    for each statement execute function refuse_change();
