-- A new id that ascends with the time: the milliseconds of an instant, then random bits.
create or replace function uuid_v7(p_at timestamptz) returns uuid language sql volatile as $$
    select overlay(gen_random_uuid()::text placing
        regexp_replace(lpad(to_hex(floor(extract(epoch from p_at) * 1000)::bigint), 12, '0'), '(.{8})', '\1-') || '-7' from 1 for 15)::uuid
$$;
