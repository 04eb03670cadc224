-- The seal of a hold: a digest of what it was made with, and of the windows it is counted in. Not of the instant: where that is
-- wrong, windows and entries do not fit it. Stable, so that Postgres puts its text in place of the call.
create or replace function hold_seal(
    p_org uuid, p_hold uuid, p_user uuid, p_key uuid, p_team uuid, p_amount bigint, p_list bigint, p_factor integer,
    p_book integer, p_after bigint, p_overdraft bigint, p_windows bigint[], p_budget_after bigint, p_type text,
    p_backend text, p_account text, p_owner uuid, p_fingerprint bytea, p_idem text
) returns bytea language sql stable as $$
    select substr(sha256(convert_to(format('%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s|%s', p_org, p_hold, p_user,
        p_key, p_team, p_amount, p_list, p_factor, p_book, p_after, p_overdraft, p_windows, p_budget_after, p_type,
        p_backend, p_account, p_owner, encode(p_fingerprint, 'hex'), p_idem), 'UTF8')), 1, 16)
$$;
