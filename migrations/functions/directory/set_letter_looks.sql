-- Replaces what letters look like, and looks at all names in use again. p_version: of the tables that the arrays are from.
create or replace function set_letter_looks(p_version text, p_letter text[], p_written text[], p_capital text[])
returns void language plpgsql as $$
begin
    -- who gives a name meanwhile waits
    lock table name_look in share row exclusive mode;
    delete from letter_look;
    insert into letter_look (letter, written, capital)
    select letter, written, capital from unnest(p_letter, p_written, p_capital) given(letter, written, capital)
    union all select '', p_version, '';
    delete from name_look;
    insert into name_look (kind, scope, look, id, name)
    select used.kind, coalesce(used.scope, '00000000-0000-0000-0000-000000000000'), look, used.id, used.name
    from (select 'org' as kind, null::uuid as scope, org.org_id::text as id, org.name from org where org.deleted_at is null
          union all select 'team', team.org_id, team.team_id::text, team.name from team where team.deleted_at is null
          union all select 'app_user', app_user.org_id, app_user.user_id::text, app_user.name from app_user
                    where app_user.deleted_at is null
          union all select 'api_key', api_key.org_id, api_key.key_id::text, api_key.name from api_key
                    where api_key.revoked_at is null
          union all select 'operator_token', null, token.token_id::text, token.name from operator_token token
                    where token.revoked_at is null
          union all select 'price_book', null, book.version::text, book.name from price_book book
          union all select 'identity_provider', null, provider.provider_id::text, provider.name from identity_provider provider
                    where provider.deleted_at is null) used
    cross join lateral unnest(name_looks(used.name)) look
    on conflict do nothing;
end $$;
