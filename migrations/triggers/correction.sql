create or replace trigger correction_append_only before update or delete on correction
    for each row execute function refuse_change();
create or replace trigger correction_no_truncate before truncate on correction
    for each statement execute function refuse_change();
