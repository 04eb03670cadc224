-- A row of the audit log (before or after) with a pseudonym in place of a name and of an identity provider's subject.
create or replace function pseudonymised(p_row jsonb, p_pseudonym text) returns jsonb language sql immutable as $$
    select coalesce(jsonb_object_agg(field.key, case when field.key in ('name', 'subject') then to_jsonb(p_pseudonym)
                                                     else field.value end), p_row)
    from jsonb_each(p_row) field
$$;
