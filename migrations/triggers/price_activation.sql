create or replace trigger price_activation_append_only before update or delete on price_activation
    for each row execute function price_activation_keeps();
create or replace trigger price_activation_no_truncate before truncate on price_activation
    for each statement execute function refuse_change();
