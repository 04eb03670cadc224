-- Prepares the first operator's token: it counts once its text has been shown and it has been confirmed. A token
-- that was prepared and never confirmed gives way after p_patience, so that a gateway that died before it showed its text
-- locks nobody out.
--
-- Answers 'begun', 'known' (there is a token, or there was one), 'in_progress' (another gateway is at it).
create or replace function begin_bootstrap(
    p_token uuid, p_public_id text, p_secret_sha256 bytea, p_patience interval
) returns text language plpgsql as $$
begin
    lock table operator_token in share row exclusive mode;
    if exists (select from operator_token token where token.unconfirmed_since is null) then return 'known'; end if;
    if exists (select from operator_token token where token.unconfirmed_since > clock_timestamp() - p_patience) then
        return 'in_progress';
    end if;
    delete from operator_token token where token.unconfirmed_since is not null;
    insert into operator_token (token_id, public_id, name, role, secret_sha256, unconfirmed_since)
    values (p_token, p_public_id, 'bootstrap', 'operator', p_secret_sha256, clock_timestamp());
    return 'begun';
end $$;
