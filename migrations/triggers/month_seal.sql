create or replace trigger month_seal_append_only before update or delete on month_seal
    for each row execute function refuse_change();
create or replace trigger month_seal_no_truncate before truncate on month_seal
    for each statement execute function refuse_change();
