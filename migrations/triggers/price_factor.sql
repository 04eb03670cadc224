create or replace trigger price_factor_version before update on price_factor
    for each row execute function next_version();
create or replace trigger price_factor_epoch after insert or update or delete on price_factor
    for each statement execute function bump_epoch_of('prices');
create or replace trigger price_factor_audit after insert or update or delete on price_factor
    for each row execute function audit_change('price_factor', 'factor_id');
