create or replace trigger credit_lot_event_append_only before update or delete on credit_lot_event
    for each row execute function refuse_change();
create or replace trigger credit_lot_event_no_truncate before truncate on credit_lot_event
    for each statement execute function refuse_change();
