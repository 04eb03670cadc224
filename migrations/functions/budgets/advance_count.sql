-- Takes the next step of what is to be done in an organisation after a change of a budget (table budget_count). Any number
-- of gateways may call it. Each step is short, whatever the history: only those that look at open holds, or write sums, are
-- under the balance row.
--
-- 'more': there is another step; 'busy': somebody else is at this one; 'done': nothing is left to do.
create or replace function advance_count(p_org uuid, p_budget uuid, p_entries integer, p_rows integer) returns text
language plpgsql as $$
declare
    v_count  bigint;
    v_coming boolean;
    v_done   boolean;
begin
    select waiting.count_id, waiting.coming, place.done into v_count, v_coming, v_done
    from budget_count waiting
    left join budget_count_place place on place.org_id = waiting.org_id and place.count_id = waiting.count_id
    where waiting.org_id = p_org and waiting.budget_id = p_budget;
    if not found then return 'done'; end if;
    if v_coming and not v_done then return count_entries_before(p_org, v_count, p_entries); end if;
    return bring_into_force(p_org, p_budget, p_rows);
end $$;
