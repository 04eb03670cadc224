-- When the present window of a period began, by the clock of p_zone. Weeks begin on Monday.
create or replace function window_start(p_period text, p_zone text, p_now timestamptz) returns timestamptz
language sql stable as $$
    select case p_period
        when 'total' then timestamptz '-infinity'
        when 'daily' then day_start(date_trunc('day', p_now at time zone p_zone), p_zone)
        when 'weekly' then day_start(date_trunc('week', p_now at time zone p_zone), p_zone)
        when 'monthly' then day_start(date_trunc('month', p_now at time zone p_zone), p_zone)
    end
$$;
