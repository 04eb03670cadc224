-- What a month of an organisation adds up to, and its chain of digests, from what is in the tables now: each link is the SHA-256 of the
-- link before and a line (month_lines). p_chain: the link to begin with.
create or replace function month_figures(
    p_org uuid, p_month date, p_chain bytea,
    out holds bigint, out settled bigint, out released bigint, out written_off bigint, out charged bigint, out entries bigint,
    out consumed bigint, out corrected bigint, out granted bigint, out chain bytea
) language plpgsql stable set plan_cache_mode = force_custom_plan as $$
declare
    v_line record;
begin
    holds := 0; settled := 0; released := 0; written_off := 0; charged := 0;
    entries := 0; consumed := 0; corrected := 0; granted := 0;
    chain := p_chain;
    for v_line in select known.part, known.line, known.state, known.amount from month_lines(p_org, p_month) known loop
        chain := sha256(chain || convert_to(v_line.line, 'UTF8'));
        if v_line.part = 'hold' then
            holds := holds + 1;
            case v_line.state
                when 'SETTLED' then settled := settled + 1; charged := charged + v_line.amount;
                when 'RELEASED' then released := released + 1;
                when 'WRITTEN_OFF' then written_off := written_off + 1;
                else null;
            end case;
        elsif v_line.part = 'entry' then
            entries := entries + 1;
            case v_line.state
                when 'consume' then consumed := consumed + v_line.amount;
                when 'correct' then corrected := corrected + v_line.amount;
                else granted := granted + v_line.amount;
            end case;
        end if;
    end loop;
end $$;
