-- When the count of exposure that goes on at p_now began. Each UTC day begins a new one, unless the organisation is stopped:
-- then the operator is to see what stopped it. Figures whose count began earlier than this are over, and count as 0.
create or replace function exposure_start(p_since timestamptz, p_stopped timestamptz, p_now timestamptz)
returns timestamptz language sql stable as $$
    select case when p_stopped is null then greatest(p_since, date_trunc('day', p_now, 'UTC')) else p_since end
$$;
