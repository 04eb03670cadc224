create or replace trigger signing_key_epoch after insert or update or delete on signing_key
    for each statement execute function bump_epoch_of('prices');
create or replace trigger signing_key_audit after insert or update or delete on signing_key
    for each row execute function audit_signing_key();
