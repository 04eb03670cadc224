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
    from (select 'org' as kind, null::uuid as scope, o.org_id::text as id, o.name from org o where o.deleted_at is null
          union all select 'team', t.org_id, t.team_id::text, t.name from team t where t.deleted_at is null
          union all select 'app_user', u.org_id, u.user_id::text, u.name from app_user u where u.deleted_at is null
          union all select 'api_key', k.org_id, k.key_id::text, k.name from api_key k where k.revoked_at is null
          union all select 'operator_token', null, t.token_id::text, t.name from operator_token t where t.revoked_at is null
          union all select 'price_book', null, b.version::text, b.name from price_book b
          union all select 'identity_provider', null, p.provider_id::text, p.name from identity_provider p
                    where p.deleted_at is null) used
    cross join lateral unnest(name_looks(used.name)) look
    on conflict do nothing;
end $$;
