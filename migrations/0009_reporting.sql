-- A schema of views for dashboards (views/), and a role that reads them and nothing else.
--
-- The views run with the rights of their owner, who migrates; what they leave out cannot be reached: prompts and everything
-- else that callers sent (`data`, `answer`, reasons, references), secrets and their digests, public halves of keys, the
-- audit log. Of people they show the names that are stored here. Functions run with the rights of the reader, so the views
-- call none that reads tables; the two that look at other sessions are the owner's and take no arguments.
--
-- The role cannot log in. A database user who may make roles gives a program a login:
--
--     create role grafana login password '…' in role tollgate_reader;
--     alter role grafana set statement_timeout = '30s';
--     alter role grafana set default_transaction_read_only = on;
--
-- (Settings of a role do not pass to its members: they cannot be made here.)
-- Like every login it may make temporary tables, send notifications and take advisory locks; the first of these ends with
-- `revoke temporary on database … from public`.
--
-- Roles belong to the whole cluster: another database may have made the role, or be making it now. The database user who
-- migrates may not be allowed to make roles: then everything but the grants is done here, and an administrator adds them:
--
--     create role tollgate_reader nologin;                                        -- as an administrator
--     grant usage on schema reporting to tollgate_reader;                         -- as the one who migrates
--     grant select on all tables in schema reporting to tollgate_reader;
--     grant execute on all functions in schema reporting to tollgate_reader;
--     alter default privileges in schema reporting grant select on tables to tollgate_reader;
--     alter default privileges in schema reporting grant execute on functions to tollgate_reader;
--

create schema if not exists reporting;
revoke all on schema reporting from public;

do $$
begin
    begin
        create role tollgate_reader nologin;
    exception
        -- it is there, or another database's migration made it at the same moment
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
            raise notice 'the role tollgate_reader was not made: this migration tells what an administrator does';
    end;
    if exists (select from pg_roles role where role.rolname = 'tollgate_reader') then
        grant usage on schema reporting to tollgate_reader;
        -- before there are any: views and functions are made after the migrations
        alter default privileges in schema reporting grant select on tables to tollgate_reader;
        alter default privileges in schema reporting grant execute on functions to tollgate_reader;
    end if;
end $$;
