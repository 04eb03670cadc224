-- Revokes an operator's token. The last one that can change anything stays: nobody could make another.
--
-- Answers 'revoked', 'unknown', 'last'.
create or replace function revoke_operator_token(p_token uuid) returns text language plpgsql as $$
declare
    v_role text;
begin
    lock table operator_token in share row exclusive mode;
    select token.role into v_role from operator_token token where token.token_id = p_token;
    if not found then return 'unknown'; end if;
    if v_role = 'operator' and not exists (
        select from operator_token other where other.token_id <> p_token and other.role = 'operator'
          and other.revoked_at is null and other.expires_at is null and other.unconfirmed_since is null)
    then return 'last'; end if;
    update operator_token token set revoked_at = coalesce(token.revoked_at, now()) where token.token_id = p_token;
    return 'revoked';
end $$;
