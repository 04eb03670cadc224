-- Trigger: an organisation has no more users, teams, keys or budgets than it may, and not more than ten times as many that were
-- deleted or revoked, which stay. Argument: the kind. By trigger, because users are made by admins and by identity providers
-- alike. Those that are added at the same instant do not see one another, so there may be a few more.
create or replace function check_quota() returns trigger language plpgsql as $$
declare
    v_over record;
begin
    select owner.org_id, usage.most into v_over
    from (select distinct added.org_id from added where added.org_id is not null) owner
    cross join lateral quota_of(owner.org_id, tg_argv[0]) usage
    where usage.used > usage.most limit 1;
    if found then
        raise exception 'this organisation may have % %: an operator can allow more', v_over.most, tg_argv[0]
            using errcode = 'TG001';
    end if;
    select owner.org_id, general.most into v_over
    from (select distinct added.org_id from added where added.org_id is not null) owner
    cross join lateral (
        select coalesce(special.most, platform.most)::bigint * 10 as most
        from quota platform left join quota special on special.org_id = owner.org_id and special.kind = platform.kind
        where platform.org_id is null and platform.kind = tg_argv[0]) general
    where case tg_argv[0]
              when 'users' then exists (select from app_user gone where gone.org_id = owner.org_id and gone.deleted_at is not null
                                        offset general.most)
              when 'teams' then exists (select from team gone where gone.org_id = owner.org_id and gone.deleted_at is not null
                                        offset general.most)
              when 'keys' then exists (select from api_key gone where gone.org_id = owner.org_id and gone.revoked_at is not null
                                       offset general.most)
              else false
          end limit 1;
    if found then
        raise exception 'this organisation has more than % deleted or revoked %, which stay for its history: an operator can allow more %',
            v_over.most, tg_argv[0], tg_argv[0]
            using errcode = 'TG001';
    end if;
    return null;
end $$;
