create or replace trigger price_drafts_only before insert or update or delete on price
    for each row execute function price_of_draft();
create or replace trigger price_no_truncate before truncate on price
    for each statement execute function refuse_change();
create or replace trigger price_audit after insert or update or delete on price
    for each row execute function audit_change('price', 'price_id');
