-- The first instant of a day. Where clocks change at midnight that is neither always 00:00 nor always the 00:00 that
-- Postgres prefers.
create or replace function day_start(p_day timestamp, p_zone text) returns timestamptz language sql stable as $$
    select case when date_trunc('day', (p_day at time zone p_zone - interval '1 hour') at time zone p_zone) = p_day
                then p_day at time zone p_zone - interval '1 hour' else p_day at time zone p_zone end
$$;
