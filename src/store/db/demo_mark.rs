//! The mark of a demo's database: the table `tollgate_demo`.
//!
//! Demos work in databases with this mark only, and leave it in empty ones only, in one statement with the look at what is
//! there. `serve` refuses a database that has it. So nothing with the mark has ever been anybody's ledger, and a ledger
//! never gets one; a database that stops being a demo's, by a deliberate `drop table tollgate_demo`, is safe from demos.

use super::database::Database;
use super::error::LedgerError;

/// What the statement below raises when the database is somebody's.
const SOMEBODYS: &str = "TG001";

/// Marks an empty database. What an extension brought along does not count.
const CLAIM: &str = r"do $$
declare
  found text;
begin
  perform pg_advisory_xact_lock(7116012);
  if to_regclass('tollgate_demo') is not null then
    return;
  end if;
  select c.relname into found
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and c.relkind in ('r', 'p', 'f', 'v', 'm', 'S')
    and not exists (
      select from pg_depend d
      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
  order by c.relkind not in ('r', 'p'), c.relname
  limit 1;
  if found is not null then
    raise exception using errcode = 'TG001', message = found;
  end if;
  create table tollgate_demo (made_at timestamptz not null default now());
  comment on table tollgate_demo is
    'Everything in this database was made by tollgate demo. Only demos use it; tollgate serve refuses it.';
end
$$";

impl Database {
    /// Takes this database for a demo if it is empty, or a demo's already. If it is neither, nothing in it is changed, and
    /// the answer is something that stands in it.
    pub async fn claim_for_demo(&self) -> Result<Option<String>, LedgerError> {
        match sqlx::query(CLAIM).execute(self.pool()).await {
            Ok(_) => Ok(None),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(SOMEBODYS) => {
                Ok(Some(error.message().to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this is a demo's database.
    pub async fn is_a_demos(&self) -> Result<bool, LedgerError> {
        let marked = sqlx::query_scalar("select to_regclass('tollgate_demo') is not null");
        Ok(marked.fetch_one(self.pool()).await?)
    }
}
