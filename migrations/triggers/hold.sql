create or replace trigger hold_sealed before insert on hold
    for each row when (new.seal is null) execute function seal_hold();
