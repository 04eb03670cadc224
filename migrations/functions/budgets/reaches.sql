-- Whether what was spent has reached a threshold (percent) of the limit.
create or replace function reaches(p_spent numeric, p_cap bigint, p_threshold integer) returns boolean
language sql immutable as $$
    select p_spent > 0 and p_spent * 100 >= p_cap::numeric * p_threshold
$$;
