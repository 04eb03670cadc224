create or replace trigger former_price_factor_epoch after insert on former_price_factor
    for each statement execute function bump_epoch_of('prices');
