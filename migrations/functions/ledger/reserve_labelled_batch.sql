-- reserve_batch for a batch in which some items have labels: a hold that is granted gets its labels in the same transaction.
--
-- p_labelled: of each label, the place of its item in the batch (from 1); p_name and p_value: what it says. An item that an earlier
-- sending has granted got its labels then. The verdicts are those of reserve_batch.
create or replace function reserve_labelled_batch(
    p_orgs uuid[], p_pos integer[], p_hold uuid[], p_user uuid[], p_key uuid[],
    p_amount bigint[], p_list bigint[], p_factor integer[], p_book integer[],
    p_type text[], p_backend text[], p_account text[],
    p_fingerprint bytea[], p_idem text[], p_keyed boolean[], p_guard boolean[],
    p_owner uuid, p_max_open integer, p_lease_ms bigint, p_resend boolean, p_now timestamptz, p_wait boolean,
    p_labelled integer[], p_name text[], p_value text[],
    out verdict text[], out available bigint[], out reference uuid[]
) language plpgsql set plan_cache_mode = force_generic_plan as $$
begin
    select reserved.verdict, reserved.available, reserved.reference into verdict, available, reference
    from reserve_batch(p_orgs, p_pos, p_hold, p_user, p_key, p_amount, p_list, p_factor, p_book, p_type, p_backend,
                       p_account, p_fingerprint, p_idem, p_keyed, p_guard, p_owner, p_max_open, p_lease_ms, p_resend,
                       p_now, p_wait) reserved;
    insert into label (org_id, hold_id, name, value)
    select p_orgs[p_pos[given.place]], p_hold[given.place], given.name, given.value
    from unnest(p_labelled, p_name, p_value) given(place, name, value)
    where verdict[given.place] = 'granted';
end $$;
