-- What an identity provider must not share with another one: its name, and a pair of issuer and audience, because a token
-- must not find two. Whoever asks holds the lock to the end of the transaction: two that are made at once see each other.
--
-- Answers null (none), 'unknown_org', 'name', 'audience'.
create or replace function provider_conflict(
    p_provider uuid, p_name text, p_issuer text, p_audiences text[], p_org uuid
) returns text language plpgsql as $$
begin
    -- No advisory lock, which every login may take: the row of this function stands for what has no row of its own.
    perform from schema_definition where name = 'functions/directory/provider_conflict' for update;
    return case
        when p_org is not null and not exists (select from org where org.org_id = p_org and org.deleted_at is null)
            then 'unknown_org'
        when exists (select from identity_provider other
                     where other.name = p_name and other.deleted_at is null and other.provider_id <> p_provider)
            then 'name'
        when exists (select from identity_provider other
                     where other.issuer = p_issuer and other.audiences && p_audiences and other.deleted_at is null
                       and other.provider_id <> p_provider)
            then 'audience'
    end;
end $$;
