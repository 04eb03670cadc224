-- Makes a hold for a task that the vendor runs and no ledger knows, once for each idempotency key, and has it polled to its end,
-- which charges it like any other. The vendor has taken the task already: neither the balance nor a budget nor a stop can refuse
-- it. The hold says that it was allowed to take the balance as low as it did. p_reply: what the operator is answered.
--
-- outcome: 'adopted'; 'unknown_org', 'unknown_user' (of this organisation); 'replayed' (answer: what was stored),
-- 'key_reused', 'in_progress'. An id that a hold has already violates vendor_task_pkey.
--
-- Locks: first the balance row, as in reserve_batch.
create or replace function adopt_task(
    p_endpoint text, p_key text, p_fingerprint bytea, p_org uuid, p_hold uuid, p_user uuid, p_amount bigint, p_list bigint,
    p_factor integer, p_book integer, p_type text, p_backend text, p_account text, p_body_fingerprint bytea, p_task text,
    p_raw bigint, p_reason text, p_by_hand jsonb, p_reply text,
    out outcome text, out answer text
) language plpgsql as $$
declare
    v_who       constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
    v_nobody    constant uuid := '00000000-0000-0000-0000-000000000000';
    v_now       timestamptz;
    v_team      uuid;
    v_overdraft bigint;
    v_after     bigint;
    v_budgets   bigint;
    v_plan      record;
    v_left      record;
    v_windows   bigint[];
begin
    select claim.verdict, claim.answer into outcome, answer from claim_once(p_endpoint, p_key, p_fingerprint, p_hold) claim;
    if outcome <> 'fresh' then return; end if;
    select balance.available - p_amount, balance.overdraft, balance.budgets into v_after, v_overdraft, v_budgets
    from org_balance balance join org on org.org_id = balance.org_id and org.deleted_at is null
    where balance.org_id = p_org for no key update of balance;
    if not found then
        outcome := 'unknown_org';
        perform end_claim(p_endpoint, p_key, null);
        return;
    end if;
    select app_user.team_id into v_team from app_user
    where app_user.user_id = p_user and app_user.org_id = p_org and app_user.deleted_at is null;
    if not found then
        outcome := 'unknown_user';
        perform end_claim(p_endpoint, p_key, null);
        return;
    end if;
    v_now := clock_timestamp();

    -- It is counted in the windows that a create of this user would be counted in now.
    if v_budgets > 0 then
        v_plan := draw_budgets(array[p_org], array[v_budgets], array[1], array[p_user], array[null::uuid], array[v_team], v_now);
        loop
            v_left := left_of_windows(array[p_org], v_plan.pos, v_plan.level, v_plan.subject_id, v_plan.period,
                                      v_plan.starts_at, v_plan.cap, v_plan.thresholds, false);
            insert into budget_window (org_id, level, subject_id, period, starts_at)
            select p_org, missing.level, missing.subject_id, missing.period, missing.starts_at
            from unnest(v_plan.level, v_plan.subject_id, v_plan.period, v_plan.starts_at, v_left.window_id)
                 missing(level, subject_id, period, starts_at, window_id)
            where missing.window_id is null;
            exit when not found;
        end loop;
        v_windows := v_left.window_id;
        update budget_window spent set held = spent.held + p_amount
        where spent.org_id = p_org and spent.window_id = any (v_windows);
    end if;

    insert into hold (org_id, hold_id, user_id, team_id, amount, list_price, factor_bp, price_book, balance_after, overdraft,
                      task_type, backend, account, owner, fingerprint, windows, created_at)
    values (p_org, p_hold, p_user, v_team, p_amount, p_list, p_factor, p_book, v_after, greatest(v_overdraft, -v_after),
            p_type, p_backend, p_account, v_nobody, p_body_fingerprint, v_windows, v_now);
    insert into open_task (org_id, hold_id, state, backend, account, owner, upstream_task, raw_consumed, reported, reason,
                           recorded_at, due_at, by_hand)
    values (p_org, p_hold, 'RUNNING', p_backend, p_account, v_nobody, p_task, p_raw, p_raw, p_reason, v_now, v_now, p_by_hand);
    insert into vendor_task (upstream_task, account, org_id, hold_id) values (p_task, p_account, p_org, p_hold);
    update org_balance balance
    set available = balance.available - p_amount, held = balance.held + p_amount, open_tasks = balance.open_tasks + 1
    where balance.org_id = p_org;
    if v_windows is not null then
        perform raise_budget_events(p_org, v_windows, v_now);
    end if;
    insert into audit_log (actor, address, action, request_id, target_kind, target_id, org_id, after)
    values (coalesce(v_who ->> 'actor', 'database:' || session_user), v_who ->> 'address',
            coalesce(v_who ->> 'action', 'hold.adopt'), v_who ->> 'request_id', 'hold', p_hold::text, p_org,
            jsonb_build_object('step', 'adopt', 'held', p_amount, 'user_id', p_user, 'task_type', p_type) || p_by_hand);
    outcome := 'adopted';
    answer := p_reply;
    perform end_claim(p_endpoint, p_key, answer);
end $$;
