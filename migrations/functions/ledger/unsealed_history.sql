-- What there is of before there were seals, of each organisation: entries without a place, what they add up to, the sum of their
-- seals, and holds without a seal. Reads both tables. It does not grow any more; `migrate` has taken it down in history_seal.
create or replace function unsealed_history()
returns table (org_id uuid, entries bigint, balance bigint, seals numeric, holds bigint) language sql stable as $$
    select coalesce(booked.org_id, held.org_id), coalesce(booked.entries, 0), coalesce(booked.balance, 0),
           coalesce(booked.seals, 0), coalesce(held.holds, 0)
    from (select entry.org_id, count(*) as entries, sum(entry.amount)::bigint as balance,
                 sum(('x' || encode(substr(entry_seal(
                     entry.org_id, entry.entry_id, entry.kind, entry.amount, entry.hold_id, entry.seq, entry.overrun,
                     entry.user_id, entry.key_id, entry.team_id, entry.task_type, entry.reason, entry.external_ref,
                     entry.related_entry, entry.actor, entry.created_at, null, null), 1, 7), 'hex'))::bit(56)::bigint) as seals
          from entry where entry.place is null group by entry.org_id) booked
    full join (select hold.org_id, count(*) as holds from hold where hold.seal is null group by hold.org_id) held
      on held.org_id = booked.org_id
$$;
