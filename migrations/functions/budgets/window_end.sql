-- When the next window of a period begins; never, for a total.
create or replace function window_end(p_period text, p_zone text, p_now timestamptz) returns timestamptz
language sql stable as $$
    select case p_period
        when 'total' then timestamptz 'infinity'
        when 'daily' then day_start(date_trunc('day', p_now at time zone p_zone) + interval '1 day', p_zone)
        when 'weekly' then day_start(date_trunc('week', p_now at time zone p_zone) + interval '7 days', p_zone)
        when 'monthly' then day_start(date_trunc('month', p_now at time zone p_zone) + interval '1 month', p_zone)
    end
$$;
