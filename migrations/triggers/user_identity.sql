-- Not for a new identity: gateways look up an unknown one each time.
create or replace trigger user_identity_epoch after update or delete on user_identity
    for each statement execute function bump_epoch_of('auth');
create or replace trigger user_identity_audit after insert or update or delete on user_identity
    for each row execute function audit_change('identity', 'identity_id');
