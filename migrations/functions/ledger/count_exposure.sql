-- The exposure of an organisation after a batch of steps: its figures as they stand in its balance row, and what the batch
-- adds to them (negative: a doubt has ended, or a loss was taken back; null: nothing). At the limit of a day creates are
-- stopped: reserve_batch refuses them until resume_creates.
--
-- The limit is the setting tollgate.max_exposure_per_day of the session, which the lanes of a gateway have. 0, or no such
-- setting: it is counted, and nothing is stopped (an operator who resolves a doubt, a gateway of an earlier version).
create or replace function count_exposure(
    p_since timestamptz, p_lost bigint, p_in_doubt bigint, p_overrun bigint, p_stopped timestamptz,
    p_more_lost numeric, p_more_in_doubt numeric, p_more_overrun numeric, p_now timestamptz,
    out since timestamptz, out lost bigint, out in_doubt bigint, out overrun bigint, out stopped timestamptz
) language plpgsql stable as $$
declare
    v_limit bigint;
begin
    since := p_since; lost := p_lost; in_doubt := p_in_doubt; overrun := p_overrun; stopped := p_stopped;
    if p_more_lost is null then return; end if;
    since := exposure_start(p_since, p_stopped, p_now);
    if p_since is null or p_since < since then
        lost := 0; in_doubt := 0; overrun := 0;
    end if;
    lost := saturated(greatest(lost + p_more_lost, 0));
    in_doubt := saturated(greatest(in_doubt + p_more_in_doubt, 0));
    overrun := saturated(greatest(overrun + p_more_overrun, 0));
    v_limit := coalesce(nullif(current_setting('tollgate.max_exposure_per_day', true), '')::bigint, 0);
    if stopped is null and v_limit > 0 and lost::numeric + in_doubt + overrun >= v_limit then
        stopped := p_now;
    end if;
end $$;
