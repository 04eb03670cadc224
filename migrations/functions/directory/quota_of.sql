-- How many of a kind an organisation has, and how many it may have; null: there is no such kind.
create or replace function quota_of(p_org uuid, p_kind text, out used bigint, out most integer, out own boolean)
language sql stable as $$
    select case p_kind
               when 'users' then (select count(*) from app_user usr where usr.org_id = p_org and usr.deleted_at is null)
               when 'teams' then (select count(*) from team where team.org_id = p_org and team.deleted_at is null)
               when 'keys' then (select count(*) from api_key key where key.org_id = p_org and key.revoked_at is null)
               when 'budgets' then (select count(*) from budget where budget.org_id = p_org)
               when 'changes' then (select coalesce(sum(asked.changes), 0) from change_count asked
                                    where asked.org_id = p_org and asked.day = (now() at time zone 'UTC')::date)
           end,
           coalesce(special.most, general.most), special.most is not null
    from quota general left join quota special on special.org_id = p_org and special.kind = general.kind
    where general.org_id is null and general.kind = p_kind
$$;
