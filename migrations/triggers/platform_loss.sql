create or replace trigger platform_loss_append_only before update or delete on platform_loss
    for each row execute function refuse_change();
create or replace trigger platform_loss_no_truncate before truncate on platform_loss
    for each statement execute function refuse_change();
