-- Which of the ids is the subject of a budget of this level.
create or replace function subject_of(p_level text, p_org uuid, p_team uuid, p_user uuid, p_key uuid) returns uuid
language sql immutable as $$
    select case p_level when 'key' then p_key when 'user' then p_user when 'team' then p_team when 'org' then p_org end
$$;
