-- Makes a key that a member asks for itself, within the policy of its organisation (table key_policy), with the budget that the
-- policy says. Calls at one instant wait for one another at the member's row: together they make no more keys than one after
-- the other.
--
-- p_caller: the key that the member calls with; null: it signed in otherwise. A key that is bound to task types, networks or
-- rates makes no key that may do more. What is left out is as the policy has it: the task types, the longest life.
--
-- Answers 'made', 'unknown', 'off', 'many', 'often', 'long', 'types', 'networks'.
create or replace function create_member_key(
    p_org uuid, p_user uuid, p_caller uuid, p_key uuid, p_public_id text, p_secret bytea, p_name text, p_env text,
    p_types text[], p_networks text[], p_expires timestamptz, p_budget uuid
) returns text language plpgsql as $$
declare
    v_now     constant timestamptz := clock_timestamp();
    v_policy  record;
    v_caller  record;
    v_live    bigint;
    v_today   bigint;
    v_types   text[];
    v_longest timestamptz;
begin
    perform from app_user member join org on org.org_id = member.org_id
    where member.user_id = p_user and member.org_id = p_org and member.deleted_at is null and org.deleted_at is null
    for no key update of member;
    if not found then return 'unknown'; end if;
    select policy.enabled, policy.max_keys, policy.max_days, policy.allowed_types, policy.budget_period, policy.budget_credits
    into v_policy from key_policy policy where policy.org_id = p_org for share;
    if not found or not v_policy.enabled then return 'off'; end if;

    select count(*) filter (where key.revoked_at is null and coalesce(key.expires_at > v_now, true)),
           count(*) filter (where key.created_at > v_now - interval '1 day')
    into v_live, v_today from api_key key where key.user_id = p_user;
    if v_live >= v_policy.max_keys then return 'many'; end if;
    -- Revoked keys stay in the database: who makes and revokes them by the thousand is stopped.
    if v_today >= greatest(20, 2 * v_policy.max_keys) then return 'often'; end if;

    select key.allowed_types, key.allowed_networks, key.create_per_minute, key.status_per_minute
    into v_caller from api_key key where key.key_id = p_caller;
    v_types := case
        when v_policy.allowed_types is null then v_caller.allowed_types
        when v_caller.allowed_types is null then v_policy.allowed_types
        else array(select unnest(v_policy.allowed_types) intersect select unnest(v_caller.allowed_types))
    end;
    if v_types = '{}' or not coalesce(p_types, v_types) <@ v_types then return 'types'; end if;
    if v_caller.allowed_networks is not null and exists (
        select from unnest(p_networks) wanted where not exists (
            select from unnest(v_caller.allowed_networks) allowed where wanted::inet <<= allowed::inet))
    then return 'networks'; end if;
    v_longest := v_now + make_interval(days => v_policy.max_days);
    if p_expires > v_longest then return 'long'; end if;

    insert into api_key (key_id, public_id, org_id, user_id, name, secret_sha256, allowed_types, allowed_networks,
                         create_per_minute, status_per_minute, expires_at, env)
    values (p_key, p_public_id, p_org, p_user, p_name, p_secret, coalesce(p_types, v_types),
            coalesce(p_networks, v_caller.allowed_networks), v_caller.create_per_minute, v_caller.status_per_minute,
            coalesce(p_expires, v_longest), p_env);
    if v_policy.budget_period is not null then
        insert into budget (budget_id, org_id, level, subject_id, period, credits)
        values (p_budget, p_org, 'key', p_key, v_policy.budget_period, v_policy.budget_credits);
        -- Nothing was spent with a key that was not there: its budget is in force at once.
        delete from budget_count waiting where waiting.org_id = p_org and waiting.budget_id = p_budget;
        update org_balance balance set budgets = budgets_of(balance.org_id) where balance.org_id = p_org;
    end if;
    return 'made';
end $$;
