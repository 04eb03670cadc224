-- Makes or renews the login `grafana`: it reads the views of the schema `reporting`, and nothing else.
\set password `cat /run/secrets/grafana_database_password`
select 'create role grafana login in role tollgate_reader'
where not exists (select from pg_roles where rolname = 'grafana') \gexec
alter role grafana password :'password' connection limit 10;
alter role grafana set statement_timeout = '30s';
alter role grafana set default_transaction_read_only = on;
grant connect on database tollgate to grafana;
