-- What was charged for tasks that are in archives, of each subject of a level (p_subject: of this one alone), less what its window of
-- all time lists of them: what a budget that is new must count.
create or replace function archived_spending(p_org uuid, p_level text, p_subject uuid)
returns table (subject_id uuid, charged bigint) language sql stable as $$
    select spent.subject_id, (spent.charged - coalesce(listed.charged, 0))::bigint
    from (select subject.subject_id, -sum(archived.amount) as charged
          from archived_charge archived
          cross join lateral subject_of(p_level, archived.org_id, archived.team_id, archived.user_id, archived.key_id)
               subject(subject_id)
          where archived.org_id = p_org and subject.subject_id is not null
            and (p_subject is null or subject.subject_id = p_subject)
          group by subject.subject_id) spent
    left join (select known.subject_id, sum(archived.charged) as charged
               from budget_window known
               join archived_window archived on archived.org_id = known.org_id and archived.window_id = known.window_id
               where known.org_id = p_org and known.level = p_level and known.period = 'total'
               group by known.subject_id) listed on listed.subject_id = spent.subject_id
$$;
