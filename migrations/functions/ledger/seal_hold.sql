-- Trigger: seals a hold that has no seal. What makes many at once does so itself (reserve_batch).
create or replace function seal_hold() returns trigger language plpgsql as $$
begin
    new.seal := hold_seal(new.org_id, new.hold_id, new.user_id, new.key_id, new.team_id, new.amount, new.list_price,
                          new.factor_bp, new.price_book, new.balance_after, new.overdraft, new.windows, new.budget_after,
                          new.task_type, new.backend, new.account, new.owner, new.fingerprint, new.idem_key);
    return new;
end $$;
