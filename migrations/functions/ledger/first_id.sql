-- The least id of an instant: ids of before are less than it, and ids of then and later are not (UUIDv7).
create or replace function first_id(p_at timestamptz) returns uuid language sql immutable as $$
    select (lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
