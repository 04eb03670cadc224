create or replace trigger price_book_history before update or delete on price_book
    for each row execute function price_book_keeps();
create or replace trigger price_book_activation after insert or update of effective_from on price_book
    for each row execute function price_book_activates();
create or replace trigger price_book_epoch after update on price_book
    for each statement execute function bump_epoch_of('prices');
create or replace trigger price_book_audit after insert or delete or update of name, effective_from on price_book
    for each row execute function audit_change('price_book', 'version');
create or replace trigger price_book_look after insert or delete or update of name on price_book
    for each row execute function refuse_look_alike('version');
