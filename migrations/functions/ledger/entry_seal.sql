-- The seal of an entry: a digest of all that it says. Stable, so that Postgres puts its text in place of the call.
create or replace function entry_seal(
    p_org uuid, p_entry uuid, p_kind text, p_amount bigint, p_hold uuid, p_seq integer, p_overrun bigint, p_user uuid,
    p_key uuid, p_team uuid, p_type text, p_reason text, p_external_ref text, p_related uuid, p_actor text,
    p_created timestamptz, p_place bigint, p_balance bigint
) returns bytea language sql stable as $$
    -- the instant as a number: the text of one depends on the session
    select substr(sha256(convert_to(format('%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s', p_org, p_entry, p_kind,
        p_amount, p_hold, p_seq, p_overrun, p_user, p_key, p_team, p_type, p_reason, p_external_ref, p_related, p_actor,
        extract(epoch from p_created), p_place, p_balance), 'UTF8')), 1, 16)
$$;
