-- Price books: a draft can be edited, all else is history. Price factors for a time. Keys that sign quotes.
--
-- Replicas that know only the migrations before this one go on. They read price_book.effective_from, the instant of a
-- book's latest activation, and price the same by it, because only a book that was never in force can have one ahead.
-- What they do not know is price_factor: they take the organisation's own factor until they are replaced.

-- Counts changes of a draft: an editor says which one it has seen.
alter table price_book add column revision integer not null default 1;
-- What the audit log calls it.
alter table price add column price_id text generated always as (version::text || '/' || task_type) stored;

-- When each book came into force, or will. In force at an instant is the latest one that has begun and was not
-- withdrawn; of two that begin at once the later row.
create table price_activation (
    activation_id  bigint primary key generated always as identity,
    version        integer not null,
    effective_from timestamptz not null,
    actor          text not null,
    created_at     timestamptz not null default clock_timestamp(),
    -- before it began
    withdrawn_at   timestamptz check (withdrawn_at < effective_from)
);
create index price_activation_by_version on price_activation (version);
insert into price_activation (version, effective_from, actor, created_at)
select version, effective_from, 'migration', created_at from price_book
where effective_from is not null order by effective_from, version;

create function price_activation_keeps() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' and old.withdrawn_at is null and old.effective_from > clock_timestamp()
       and to_jsonb(new) - 'withdrawn_at' = to_jsonb(old) - 'withdrawn_at' then
        return new;
    end if;
    raise exception 'price_activation is append-only: % refused', tg_op using errcode = 'restrict_violation';
end $$;
create trigger price_activation_append_only before update or delete on price_activation
    for each row execute function price_activation_keeps();
create trigger price_activation_no_truncate before truncate on price_activation
    for each statement execute function refuse_change();

-- Whoever sets effective_from, also a replica of before: what was in force stays as it was.
create function price_book_keeps() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        if old.effective_from is null then return old; end if;
        raise exception 'price book % is no draft: it stays', old.version using errcode = 'restrict_violation';
    end if;
    if old.effective_from is not null and (new.version, new.name, new.created_at) is distinct from (old.version, old.name, old.created_at) then
        raise exception 'price book % is no draft: it stays as it is', old.version using errcode = 'restrict_violation';
    end if;
    if old.effective_from <= clock_timestamp() and new.effective_from is distinct from old.effective_from
       and coalesce(new.effective_from > clock_timestamp(), true) then
        raise exception 'price book % was in force: it can be put in force at once, or copied', old.version
            using errcode = 'restrict_violation';
    end if;
    return new;
end $$;
create trigger price_book_history before update or delete on price_book
    for each row execute function price_book_keeps();

create function price_book_activates() returns trigger language plpgsql as $$
begin
    if tg_op = 'UPDATE' then
        if new.effective_from is not distinct from old.effective_from then return null; end if;
        update price_activation set withdrawn_at = clock_timestamp()
        where version = new.version and withdrawn_at is null and effective_from > clock_timestamp();
    end if;
    if new.effective_from is not null then
        insert into price_activation (version, effective_from, actor)
        values (new.version, new.effective_from,
                coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb ->> 'actor', 'database:' || session_user));
    end if;
    return null;
end $$;
create trigger price_book_activation after insert or update of effective_from on price_book
    for each row execute function price_book_activates();

-- The lock keeps a book from coming into force under an edit.
create function price_of_draft() returns trigger language plpgsql as $$
begin
    perform from price_book b where b.version in (old.version, new.version) for share;
    if exists (select from price_book b where b.version in (old.version, new.version) and b.effective_from is not null) then
        raise exception 'price book % is no draft: its prices stay', coalesce(old.version, new.version)
            using errcode = 'restrict_violation';
    end if;
    return coalesce(new, old);
end $$;
create trigger price_drafts_only before insert or update or delete on price
    for each row execute function price_of_draft();
create trigger price_no_truncate before truncate on price
    for each statement execute function refuse_change();

create trigger price_book_audit after insert or delete or update of name, effective_from on price_book
    for each row execute function audit_change('price_book', 'version');
create trigger price_audit after insert or update or delete on price
    for each row execute function audit_change('price', 'price_id');

-- What an organisation pays of the list price for a time. None of its spans overlap: that is checked under the
-- organisation's row lock.
create table price_factor (
    org_id      uuid not null references org,
    factor_id   uuid not null,
    factor_bp   integer not null check (factor_bp between 0 and 1000000),
    valid_from  timestamptz not null,
    -- null: until somebody ends it
    valid_until timestamptz,
    reason      text not null check (reason <> ''),
    version     integer not null default 1,
    created_at  timestamptz not null default clock_timestamp(),
    primary key (org_id, factor_id),
    check (valid_until > valid_from)
);
create trigger price_factor_version before update on price_factor
    for each row execute function next_version();
create trigger price_factor_epoch after insert or update or delete on price_factor
    for each statement execute function bump_epoch_of('prices');
create trigger price_factor_audit after insert or update or delete on price_factor
    for each row execute function audit_change('price_factor', 'factor_id');

-- Quotes are signed by the newest that every gateway has had time to read. The log tells of a new one, not what it is.
create table signing_key (
    generation integer primary key,
    key        bytea not null check (length(key) = 32),
    created_at timestamptz not null default clock_timestamp()
);
create trigger signing_key_epoch after insert or update or delete on signing_key
    for each statement execute function bump_epoch_of('prices');

create function audit_signing_key() returns trigger language plpgsql as $$
declare
    v_who constant jsonb := coalesce(nullif(current_setting('tollgate.audit', true), '')::jsonb, '{}');
begin
    insert into audit_log (actor, address, action, request_id, target_kind, target_id)
    values (coalesce(v_who ->> 'actor', 'database:' || session_user), v_who ->> 'address',
            coalesce(v_who ->> 'action', 'signing_key.' || lower(tg_op)), v_who ->> 'request_id',
            'signing_key', coalesce(new.generation, old.generation)::text);
    return null;
end $$;
create trigger signing_key_audit after insert or update or delete on signing_key
    for each row execute function audit_signing_key();
