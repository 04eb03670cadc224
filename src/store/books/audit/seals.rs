//! The checks of what was written once: entries follow one another, and entries, holds and grants are as they were written.

/// What the entries of an organisation say of their order, each in one row, so that the sort carries little.
pub(super) const CHAIN: (&str, &str) = (
    "entries follow one another: each has the balance before it and its amount, and is as it was booked",
    "select format('org %s entry %s: place %s after %s, balance %s after %s and %s%s', c.org_id, c.entry_id, c.place, \
      coalesce(c.place_before, 0), c.balance_after, coalesce(c.balance_before, c.opening), c.amount, \
      case when c.changed then ', changed' else '' end) from (select e.org_id, e.entry_id, e.place, e.amount, e.balance_after, \
      e.opening, e.changed, lag(e.last_place) over chain as place_before, lag(e.balance_after) over chain as balance_before \
      from (select org_id, entry_id, place, place as last_place, amount, balance_after, coalesce(h.balance, 0) as opening, \
      seal is distinct from entry_seal(org_id, entry_id, kind, amount, \
      hold_id, seq, overrun, user_id, key_id, team_id, task_type, reason, external_ref, related_entry, actor, created_at, place, \
      balance_after) as changed from entry left join history_seal h using (org_id) \
      where place is not null or coalesce(h.entries, 0) = 0 \
      union all select org_id, null, first_place, last_place, amount, balance_after, coalesce(h.balance, 0), false \
      from archived_place left join history_seal h using (org_id) offset 0) e window chain as (partition by e.org_id order by e.place)) c \
      where c.changed or c.place is distinct from coalesce(c.place_before, 0) + 1 \
      or c.balance_after::numeric is distinct from coalesce(c.balance_before, c.opening)::numeric + c.amount \
      union all select format('org %s: %s entries, the last at place %s', b.org_id, b.entries, coalesce(e.place, 0)) from org_balance b \
      left join (select org_id, max(place) as place from entry group by 1) e using (org_id) where b.entries <> coalesce(e.place, 0)",
);

pub(super) const HISTORY: (&str, &str) = (
    "entries and holds of before there were seals are those that were there",
    "select format('org %s: %s entries of %s and %s holds without a seal, %s of %s and %s were there%s', org_id, coalesce(n.entries, 0), \
      coalesce(n.balance, 0), coalesce(n.holds, 0), coalesce(s.entries, 0), coalesce(s.balance, 0), coalesce(s.holds, 0), \
      case when coalesce(n.seals, 0) <> coalesce(s.seals, 0) then ', changed' else '' end) \
      from unsealed_history() n full join history_seal s using (org_id) \
      where coalesce(n.entries, 0) <> coalesce(s.entries, 0) or coalesce(n.balance, 0) <> coalesce(s.balance, 0) \
      or coalesce(n.seals, 0) <> coalesce(s.seals, 0) or coalesce(n.holds, 0) <> coalesce(s.holds, 0) \
      union all select 'of all organisations: what was there is not taken down: run ''tollgate migrate''' \
      where not exists (select from history_seal where org_id = '00000000-0000-0000-0000-000000000000')",
);

pub(super) const HOLDS: (&str, &str) = (
    "a hold is as it was made, in price, factor, account and windows",
    "select format('org %s hold %s of user %s, key %s: %s for %s at %s bp of book %s, %s on %s, changed', org_id, hold_id, user_id, \
      key_id, amount, list_price, factor_bp, price_book, task_type, account) from hold left join history_seal h using (org_id) \
      where (seal is not null or coalesce(h.holds, 0) = 0) and seal is distinct from hold_seal(org_id, hold_id, user_id, key_id, team_id, amount, list_price, factor_bp, price_book, balance_after, \
      overdraft, windows, budget_after, task_type, backend, account, owner, fingerprint, idem_key)",
);

pub(super) const LOTS: (&str, &str) = (
    "a grant that runs out ends when it was granted to end, and its journal says what was burned of it",
    "select format('org %s grant %s: ends %s, granted until %s; %s burned, journal %s', org_id, entry_id, l.expires_at, j.expires_at, \
      l.burned, j.burned) from credit_lot l full join (select org_id, entry_id, max(expires_at) as expires_at, sum(burned) as burned \
      from credit_lot_event group by 1, 2) j using (org_id, entry_id) \
      where l.expires_at is distinct from j.expires_at or l.burned is distinct from j.burned",
);

pub(super) const LOGGED: (&str, &str) = (
    "what people and expiry booked is in the audit log, as it was booked",
    "select format('org %s entry %s: %s of %s, in the log %s of %s', coalesce(e.org_id, a.org_id), coalesce(e.entry_id::text, a.target_id), \
      e.kind, e.amount, a.kind, a.amount) from (select org_id, entry_id, kind, amount, place, balance_after from entry \
      where kind not in ('consume', 'correct')) e full join (select org_id, target_id, after ->> 'kind' as kind, \
      (after ->> 'amount')::bigint as amount, (after ->> 'place')::bigint as place, (after ->> 'balance_after')::bigint as balance_after \
      from audit_log where target_kind = 'entry' and after ? 'entry_id') a on a.org_id = e.org_id and a.target_id = e.entry_id::text \
      where (e.kind, e.amount, e.place, e.balance_after) is distinct from (a.kind, a.amount, a.place, a.balance_after)",
);
