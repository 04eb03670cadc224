//! The connection of an audit, and in which order it looks at what. Each check is one statement, and so one snapshot; of the whole
//! ledger it is made for one organisation, or some small ones, at a time: no snapshot is so old that it keeps the database from
//! cleaning up the rows of those who work meanwhile.
//!
//! Checks name tables without a schema. Views of the connection's own go before those tables, each with the rows of the organisations
//! whose turn it is.

use std::ops::RangeInclusive;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Row};
use uuid::Uuid;

use super::{INVARIANTS, archived, seals, totals};
use crate::store::db::database::Database;
use crate::store::db::error::StoreError;
use crate::store::db::session::Deadline;

/// Checks that compare organisations with one another, or have nothing to do with one: each is made once, over all rows.
const OF_ALL: &[&str] = &[
    "every organisation has a balance, and every balance an organisation",
    "an idempotency key points to what it made",
    "a transfer has two halves",
    "the steps in the life of a task are those of this version",
    "the triggers that guard the books are on",
    archived::VENDOR.0,
    seals::HISTORY.0,
    totals::TASKS.0,
];

/// Tables and views of which an organisation has rows of its own, each with an index that begins with it.
const OWN: [&str; 29] = [
    "archived_charge",
    "archived_month",
    "archived_place",
    "archived_window",
    "audit_log",
    "booked",
    "budget_count",
    "budget_window",
    "correction",
    "credit_event",
    "credit_lot",
    "credit_lot_event",
    "credit_pool",
    "drifted_task",
    "entry",
    "entry_total",
    "hold",
    "idempotency",
    "month_seal",
    "open_task",
    "org",
    "org_balance",
    "platform_loss",
    "task",
    "total_place",
    "unpaid_task",
    "usage_day",
    "usage_member",
    "usage_total",
];

/// One turn has so many entries at most, unless a single organisation has more, and so many organisations.
const MOST_ENTRIES: i64 = 100_000;
const MOST_ORGS: u32 = 500;

/// The first and the last organisation of a turn. That it is said to be immutable has a reason: its result stands in each plan as if
/// it had been written there, and each statement is planned anew.
const AUDITED: &str = "create function pg_temp.audited(which text) returns uuid language sql immutable \
    as 'select current_setting(''tollgate.'' || which)::uuid'";

/// Checks that are made in turn.
#[derive(Debug)]
pub(super) struct Round {
    pub checks: Vec<(&'static str, String)>,
    /// Whether the connection's own views go before the tables.
    narrowed: bool,
    /// The organisations whose turn it is.
    orgs: RangeInclusive<Uuid>,
}

impl Round {
    /// Checks of all rows there are.
    pub(super) fn of_all(checks: Vec<(&'static str, String)>) -> Self {
        Self { checks, narrowed: false, orgs: Uuid::nil()..=Uuid::max() }
    }

    /// Checks of what the connection's own views have.
    pub(super) fn of_views(checks: Vec<(&'static str, String)>) -> Self {
        Self { narrowed: true, ..Self::of_all(checks) }
    }
}

/// Not only the server ends a statement that takes too long: the server, or the network, may fall silent.
pub(super) struct Auditor {
    connection: PgConnection,
    /// Where tables are looked for beside the connection's own views.
    path: String,
}

impl Auditor {
    /// The server uses no parallel workers, so that the audit does not slow others down.
    pub(super) async fn connect(database: &Database) -> Result<Self, StoreError> {
        let connection = database.connection_for_long_work("tollgate-audit", Deadline::INVARIANT).await?;
        let mut auditor = Self { connection, path: String::new() };
        let path = "select set_config('max_parallel_workers_per_gather', '0', false), current_setting('search_path')";
        for row in auditor.rows(sqlx::query(path)).await? {
            auditor.path = row.try_get(1)?;
        }
        Ok(auditor)
    }

    /// Begins an audit of all there is.
    pub(super) async fn of_the_whole(database: &Database) -> Result<(Self, Vec<Round>), StoreError> {
        let mut auditor = Self::connect(database).await?;
        let chosen = |of_all: bool| {
            let some = INVARIANTS.iter().filter(move |(check, _)| OF_ALL.contains(check) == of_all);
            some.map(|&(check, sql)| (check, sql.to_owned())).collect::<Vec<_>>()
        };
        let allowed = "select has_database_privilege(current_database(), 'TEMP')";
        let mut may = false;
        for row in auditor.rows(sqlx::query(allowed)).await? {
            may = row.try_get(0)?;
        }
        if !may {
            // It can have no views of its own: each check is made at once for all.
            let rounds = vec![Round::of_all(chosen(true)), Round::of_all(chosen(false))];
            auditor.only_read().await?;
            return Ok((auditor, rounds));
        }
        let turns = auditor.turns().await?;
        auditor.rows(sqlx::query(AUDITED)).await?;
        for table in OWN {
            let turn = "org_id >= pg_temp.audited('first') and org_id <= pg_temp.audited('last')";
            auditor.narrow(table, turn).await?;
        }
        auditor.only_read().await?;
        let mut rounds = vec![Round::of_all(chosen(true))];
        for orgs in turns {
            rounds.push(Round { checks: chosen(false), narrowed: true, orgs });
        }
        Ok((auditor, rounds))
    }

    /// Puts a view of the connection's own before a table or a view: only with its rows that meet a condition.
    pub(super) async fn narrow(&mut self, table: &str, condition: &str) -> Result<(), StoreError> {
        const COLUMNS: &str = "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute \
            where attrelid = $1::text::regclass and attnum > 0 and not attisdropped";
        for row in self.rows(sqlx::query(COLUMNS).bind(table)).await? {
            let columns: String = row.try_get(0)?;
            let view =
                format!("create temporary view {table} as select {columns} from {table} where {condition}");
            self.rows(sqlx::query(AssertSqlSafe(view))).await?;
        }
        Ok(())
    }

    pub(super) async fn only_read(&mut self) -> Result<(), StoreError> {
        self.rows(sqlx::query("set default_transaction_read_only = on")).await.map(drop)
    }

    /// Whose turn it is one after the other: every id that an organisation may have is in one of the ranges, whether there is one or
    /// not.
    async fn turns(&mut self) -> Result<Vec<RangeInclusive<Uuid>>, StoreError> {
        let (mut turns, mut first) = (Vec::new(), Uuid::nil());
        let (mut entries, mut orgs) = (0_i64, 0_u32);
        let known = "select org_id, coalesce(entries, 0) from org_balance order by org_id";
        for row in self.rows(sqlx::query(known)).await? {
            let (org, more): (Uuid, i64) = (row.try_get(0)?, row.try_get(1)?);
            entries = entries.saturating_add(more);
            orgs = orgs.saturating_add(1);
            if (entries > MOST_ENTRIES || orgs > MOST_ORGS) && org > first {
                turns.push(first..=Uuid::from_u128(org.as_u128().saturating_sub(1)));
                (first, entries, orgs) = (org, more, 1);
            }
        }
        turns.push(first..=Uuid::max());
        Ok(turns)
    }

    /// Begins the turn of a round.
    pub(super) async fn turn_to(&mut self, round: &Round) -> Result<(), StoreError> {
        let path = &self.path;
        let path = if round.narrowed { format!("pg_temp, {path}") } else { format!("{path}, pg_temp") };
        let turn = "select set_config('search_path', $1, false), set_config('tollgate.first', $2, false), \
            set_config('tollgate.last', $3, false)";
        let (first, last) = (round.orgs.start().to_string(), round.orgs.end().to_string());
        self.rows(sqlx::query(turn).bind(path).bind(first).bind(last)).await.map(drop)
    }

    /// The rows of a statement, planned anew: the next group may be a hundred times as large.
    pub(super) async fn rows(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let rows = query.persistent(false).fetch_all(&mut self.connection);
        let rows = tokio::time::timeout(Deadline::INVARIANT.patience(), rows).await;
        rows.map_err(|_| StoreError::Timeout)?.map_err(Into::into)
    }

    pub(super) async fn end(self) {
        drop(tokio::time::timeout(Deadline::QUERY.patience(), self.connection.close()).await);
    }
}

/// Where a check stands among all.
pub(super) fn place(check: &str) -> usize {
    INVARIANTS.iter().position(|(name, _)| *name == check).unwrap_or(INVARIANTS.len())
}
