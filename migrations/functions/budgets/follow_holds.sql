-- Has holds list the window of their subject, which counts what they hold from now on, and later their end. They are
-- open, or came to light after their end. Under the organisation's balance row.
--
-- A hold that somebody else has locked is left out, so that nothing is waited for under the balance row: who calls looks
-- again.
create or replace function follow_holds(
    p_org uuid, p_level text, p_period text, p_start timestamptz, p_holds uuid[]
) returns void language sql as $$
    with taken as materialized (
        select hold.hold_id, case when hold.state is null then hold.amount else 0 end as amount,
               subject_of(p_level, hold.org_id, hold.team_id, hold.user_id, hold.key_id) as subject_id
        from hold where hold.org_id = p_org and hold.hold_id = any (p_holds)
        for no key update of hold skip locked
    ), counted as (
        insert into budget_window as known (org_id, level, subject_id, period, starts_at, held)
        select p_org, p_level, taken.subject_id, p_period, p_start, sum(taken.amount)::bigint from taken
        group by taken.subject_id order by taken.subject_id
        on conflict (org_id, level, period, starts_at, subject_id) do update set held = known.held + excluded.held
        returning known.window_id, known.subject_id
    )
    update hold set windows = coalesce(hold.windows, '{}') || counted.window_id,
                    -- a hold of before there were seals has none
                    seal = case when hold.seal is not null then
                        hold_seal(hold.org_id, hold.hold_id, hold.user_id, hold.key_id, hold.team_id, hold.amount,
                                  hold.list_price, hold.factor_bp, hold.price_book, hold.balance_after, hold.overdraft,
                                  coalesce(hold.windows, '{}') || counted.window_id, hold.budget_after, hold.task_type,
                                  hold.backend, hold.account, hold.owner, hold.fingerprint, hold.idem_key) end
    from taken join counted on counted.subject_id = taken.subject_id
    where hold.org_id = p_org and hold.hold_id = taken.hold_id
$$;
