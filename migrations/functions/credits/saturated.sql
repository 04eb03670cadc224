-- A sum as a credit figure; what does not fit is as large as can be. One absurd report must not hide all others.
create or replace function saturated(p_sum numeric) returns bigint language sql immutable as $$
    select greatest(least(coalesce(p_sum, 0), 9223372036854775807), -9223372036854775807)::bigint
$$;
