-- The periodic audit looks at what is new or open, and at the whole once a day.
alter table audit_run
    -- when the last audit of the whole began that came to its end
    add column whole_at timestamptz;
