-- Trigger: an organisation has no more users, teams, keys or budgets than it may. Argument: the kind. By trigger, because users
-- are made by admins and by identity providers alike. Those that are added at the same instant do not see one another, so
-- there may be a few more.
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
    return null;
end $$;
