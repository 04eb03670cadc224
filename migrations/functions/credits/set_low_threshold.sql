-- Sets below how many available credits an organisation is low, if its editor has seen the version that is there
-- (p_seen; null: whatever it is; 0: it was never set). Two editors come one after the other, also while there is no row yet.
--
-- outcome: 'set', 'unknown_org', 'stale' (version: the present one).
create or replace function set_low_threshold(
    p_org uuid, p_threshold bigint, p_seen integer,
    out outcome text, out version integer
) language plpgsql as $$
begin
    perform from org where org.org_id = p_org and org.deleted_at is null for no key update;
    if not found then outcome := 'unknown_org'; return; end if;
    -- in a statement of its own: it must see what the one before has left
    select setting.version into version from credit_setting setting where setting.org_id = p_org;
    version := coalesce(version, 0);
    if p_seen <> version then outcome := 'stale'; return; end if;
    insert into credit_setting (org_id, low_threshold) values (p_org, p_threshold)
    on conflict on constraint credit_setting_pkey do update set low_threshold = excluded.low_threshold;
    outcome := 'set';
end $$;
