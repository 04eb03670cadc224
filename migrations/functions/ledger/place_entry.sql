-- Trigger: puts an entry that has no place behind the last one of its organisation, and seals it. What ends many tasks at once
-- does so itself (transition_batch).
create or replace function place_entry() returns trigger language plpgsql as $$
begin
    select former.place + 1, former.balance + new.amount into new.place, new.balance_after
    from end_of_chain(new.org_id) former;
    new.seal := entry_seal(new.org_id, new.entry_id, new.kind, new.amount, new.hold_id, new.seq, new.overrun, new.user_id,
                           new.key_id, new.team_id, new.task_type, new.reason, new.external_ref, new.related_entry,
                           new.actor, new.created_at, new.place, new.balance_after);
    return new;
end $$;
