create or replace trigger identity_provider_version before update on identity_provider
    for each row execute function next_version();
-- Also for a new provider: gateways keep the whole list in memory.
create or replace trigger identity_provider_epoch after insert or update or delete on identity_provider
    for each statement execute function bump_epoch_of('auth');
create or replace trigger identity_provider_audit after insert or update or delete on identity_provider
    for each row execute function audit_change('identity_provider', 'provider_id');
create or replace trigger identity_provider_look after insert or delete or update of name, deleted_at on identity_provider
    for each row execute function refuse_look_alike('provider_id');
