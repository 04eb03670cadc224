//! Whether a connection is a session of the server: a pooler in transaction or statement mode gives each statement
//! whichever session is free, and some poolers drop the settings that a connection begins with.

use sqlx::{Executor, PgConnection, Row};
use uuid::Uuid;

use super::Shortfall;

/// How often each connection is asked for its mark. A pooler that hands out the session that was used last is found at the
/// first look, one that hands them out in turn at a later one.
const LOOKS: usize = 3;

/// Gives `first` a mark that belongs to its session, and looks where the mark is. Uses no prepared statement, because
/// such a pooler would break it before anything is found.
pub(super) async fn shortfall(
    first: &mut PgConnection,
    second: &mut PgConnection,
) -> Result<Option<Shortfall>, sqlx::Error> {
    let mark = Uuid::now_v7().simple().to_string();
    let setting = format!("select set_config('tollgate.mark', '{mark}', false)");
    first.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(setting))).await?;
    for _ in 0..LOOKS {
        if mark_of(second).await? == mark || mark_of(first).await? != mark {
            return Ok(Some(mixed_up()));
        }
    }
    let kept = "select current_setting('idle_in_transaction_session_timeout') = '5s' and current_setting('jit') = 'off'";
    let kept: bool = first.fetch_one(sqlx::raw_sql(kept)).await?.try_get(0)?;
    Ok((!kept).then(settings_dropped))
}

async fn mark_of(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let mark = sqlx::raw_sql("select coalesce(current_setting('tollgate.mark', true), '')");
    connection.fetch_one(mark).await?.try_get(0)
}

fn mixed_up() -> Shortfall {
    Shortfall::blocking(
        "between here and the server is a pooler that does not keep sessions apart (PgBouncer: pool_mode = transaction or \
         statement), so that settings, prepared statements and notifications of one connection end up in another",
        "Connect to PostgreSQL itself: put its own address and port into the database URL",
    )
}

fn settings_dropped() -> Shortfall {
    Shortfall::blocking(
        "between here and the server is a pooler that drops the settings of a session (PgBouncer: \
         ignore_startup_parameters = options), so that deadlines of statements and limits do not hold",
        "Connect to PostgreSQL itself: put its own address and port into the database URL",
    )
}
