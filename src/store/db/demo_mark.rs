//! The mark of a demo's database: the table `tollgate_demo`.
//!
//! A demo works only in a database that has this mark. It puts the mark only on an empty database, in the same
//! statement that checks that it is empty. `serve` refuses a marked database. So a marked database has never been a
//! ledger, and a ledger never gets the mark. Dropping the table on purpose (`drop table tollgate_demo`) makes the
//! database unusable for demos.

use super::database::Database;
use super::error::StoreError;

/// The SQLSTATE that the statement below raises if the database is neither empty nor a demo's.
const SOMEBODYS: &str = "TG001";

/// Marks an empty database. Objects of extensions do not count.
const CLAIM: &str = r"do $$
declare
  found text;
begin
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
  begin
    create table tollgate_demo (made_at timestamptz not null default now());
  exception
    -- another demo has put the mark at the same moment
    when duplicate_table or unique_violation then return;
  end;
  comment on table tollgate_demo is
    'Everything in this database was made by tollgate demo. Only demos use it; tollgate serve refuses it.';
end
$$";

impl Database {
    /// Marks this database for a demo if it is empty; `None` if it is a demo's now. Otherwise the database is
    /// unchanged, and the result names an object in it.
    pub async fn claim_for_demo(&self) -> Result<Option<String>, StoreError> {
        match sqlx::query(CLAIM).execute(self.pool()).await {
            Ok(_) => Ok(None),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(SOMEBODYS) => {
                Ok(Some(error.message().to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether this database has the mark of a demo.
    pub async fn is_a_demos(&self) -> Result<bool, StoreError> {
        let marked = sqlx::query_scalar("select to_regclass('tollgate_demo') is not null");
        Ok(marked.fetch_one(self.pool()).await?)
    }
}
