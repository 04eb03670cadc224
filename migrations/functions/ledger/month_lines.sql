-- What the chain of digests of a month says: a line for each hold, in the order of the ids, then one for each entry, then one for each
-- label. Of a hold: what it was made with, and its end; not what evidence after the end may change. Instants are numbers, as in
-- entry_seal. A month that was sealed before labels were in the chain has no lines of them.
create or replace function month_lines(p_org uuid, p_month date)
returns table (part text, line text, state text, amount bigint) language sql stable as $$
    (select 'hold', format('hold|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s', hold.org_id, hold.hold_id,
                hold.user_id, hold.key_id, hold.team_id, hold.amount, hold.list_price, hold.factor_bp, hold.price_book,
                hold.balance_after, hold.overdraft, hold.budget_after, hold.task_type, hold.backend, hold.account, hold.owner,
                encode(hold.fingerprint, 'hex'), hold.idem_key, extract(epoch from hold.created_at), hold.state, hold.charged),
            hold.state, hold.charged
     from hold where hold.org_id = p_org
                 and hold.hold_id >= first_id(p_month::timestamp at time zone 'UTC')
                 and hold.hold_id < first_id((p_month + interval '1 month') at time zone 'UTC')
     order by hold.hold_id)
    union all
    (select 'entry', format('entry|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s', entry.org_id, entry.entry_id, entry.kind,
                entry.amount, entry.hold_id, entry.seq, entry.overrun, entry.user_id, entry.key_id, entry.team_id, entry.task_type,
                entry.reason, entry.external_ref, entry.related_entry, entry.actor, extract(epoch from entry.created_at), entry.place,
                entry.balance_after),
            entry.kind, entry.amount
     from entry where entry.org_id = p_org
                  and entry.entry_id >= first_id(p_month::timestamp at time zone 'UTC')
                  and entry.entry_id < first_id((p_month + interval '1 month') at time zone 'UTC')
     order by entry.entry_id)
    union all
    (select 'label', format('label|%s|%s|%s|%s', label.org_id, label.hold_id, label.name, label.value), null, null
     from label where label.org_id = p_org
                  and label.hold_id >= first_id(p_month::timestamp at time zone 'UTC')
                  and label.hold_id < first_id((p_month + interval '1 month') at time zone 'UTC')
                  and not exists (select from month_seal seal
                                  where seal.org_id = p_org and seal.month = p_month and seal.labels is null)
     order by label.hold_id, convert_to(label.name, 'UTF8'))
$$;
