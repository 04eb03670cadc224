#!/usr/bin/env bash
# At the first start of the volume: the ledger's owner, who is no superuser, and its database.
set -euo pipefail
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\set password `cat /run/secrets/database_password`
-- createrole: a migration makes the read-only role. pg_monitor: the views behind Grafana tell of replication and locks.
create role tollgate login createrole password :'password';
grant pg_monitor to tollgate;
create database tollgate owner tollgate;
revoke connect on database tollgate from public;
grant connect on database tollgate to tollgate;
SQL
