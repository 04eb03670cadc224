//! Whoever detaches or restores a month may be killed at any instant, and nobody waits for them meanwhile.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::AssertSqlSafe;
use tollgate::ids::HoldId;

use super::archived::History;
use crate::support::database::until;
use crate::support::fixture::{credits, grant, ledger, new_hold, run, settle};
use crate::support::process::Process;
use crate::support::seed::TOP_UP;

async fn archived(history: &History) -> i64 {
    sqlx::query_scalar("select coalesce(sum(tasks), 0)::bigint from archived_charge")
        .fetch_one(history.db.pool())
        .await
        .unwrap()
}

/// No session of the command is left.
async fn alone(history: &History) {
    until("the command's session ends", async || {
        let others = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'tollgate-archive'";
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(others)).fetch_one(history.db.pool()).await.unwrap() == 0
    })
    .await;
}

#[tokio::test]
async fn a_month_is_wholly_here_or_wholly_away_wherever_the_command_is_killed() {
    let history = History::new().await;
    let rows = history.rows().await;
    let archive = history.archived().await;
    let (month, from, url) = (history.month.to_string(), archive.to_str().unwrap(), history.db.url());
    let detach = ["archive", "detach", &month, "--from", from, "--keep-months", "1", "--database-url", url];
    let restore = ["archive", "restore", from, "--database-url", url];
    for (command, point, away) in [
        (&detach[..], Some("archive.moved"), 0),
        (&detach, Some("archive.committed"), 24),
        (&restore, Some("archive.moved"), 24),
        (&restore, Some("archive.committed"), 0),
        (&detach, None, 24),
        (&restore, None, 0),
    ] {
        let plan = point.map(|point| format!("{point}=kill"));
        let env: Vec<(&str, &str)> = plan.iter().map(|plan| ("TOLLGATE_FAIL_POINT", plan.as_str())).collect();
        let code = Process::with_env(command, &env).gone().await;
        assert_eq!(code == Some(0), point.is_none(), "{command:?} {point:?}: {code:?}");
        alone(&history).await;
        assert_eq!(archived(&history).await, away, "{command:?} {point:?}");
        assert_eq!(history.db.database().audit().await.unwrap().breaches, []);
        if away == 0 {
            assert_eq!(history.rows().await, rows);
        }
    }
}

/// Killed within the statement itself, when holds and entries are moved and the vendor's ids are not.
#[tokio::test]
async fn a_command_that_dies_within_its_statement_has_changed_nothing() {
    let history = History::new().await;
    let rows = history.rows().await;
    let archive = history.archived().await;
    let (month, from, url) = (history.month.to_string(), archive.to_str().unwrap(), history.db.url());
    let detach = ["archive", "detach", &month, "--from", from, "--keep-months", "1", "--database-url", url];
    let restore = ["archive", "restore", from, "--database-url", url];
    for (command, away) in [(&detach[..], 0), (&restore, 24)] {
        let before = history.rows().await;
        let mut other = history.db.pool().begin().await.unwrap();
        sqlx::query("select from vendor_task for update").execute(&mut *other).await.unwrap();
        let process = Process::with_env(command, &[]);
        until("it waits for the vendor's ids", async || {
            let waiting = "select count(*) from pg_stat_activity where datname = current_database() \
                and application_name = 'tollgate-archive' and wait_event_type = 'Lock'";
            sqlx::query_scalar::<_, i64>(AssertSqlSafe(waiting)).fetch_one(history.db.pool()).await.unwrap()
                > 0
        })
        .await;
        kill(Pid::from_raw(process.id().cast_signed()), Signal::SIGKILL).unwrap();
        assert_eq!(process.gone().await, None);
        other.rollback().await.unwrap();
        alone(&history).await;
        assert_eq!(archived(&history).await, away);
        assert_eq!(history.rows().await, before);
        assert_eq!(history.db.database().audit().await.unwrap().breaches, []);
        assert_eq!(Process::with_env(command, &[]).gone().await, Some(0));
    }
    assert_eq!(history.rows().await, rows);
}

/// The rows have left, and it is not committed: creates, ends of tasks, lists, statements and the audit go on.
#[tokio::test]
async fn nobody_waits_while_a_month_leaves() {
    let history = History::new().await;
    let archive = history.archived().await;
    let (month, from, url) = (history.month.to_string(), archive.to_str().unwrap(), history.db.url());
    let detach = ["archive", "detach", &month, "--from", from, "--keep-months", "1", "--database-url", url];
    let stopped = Process::with_env(&detach, &[("TOLLGATE_FAIL_POINT", "archive.moved=stop")]);
    until("all has left", async || {
        let locks = "select count(*) from pg_locks l join pg_stat_activity a using (pid) where a.datname = current_database() \
            and a.application_name = 'tollgate-archive' and a.state = 'idle in transaction' and l.mode = 'ShareRowExclusiveLock'";
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(locks)).fetch_one(history.db.pool()).await.unwrap() > 0
    })
    .await;
    let ledger = ledger(&history.db).await;
    let database = history.db.database();
    let org = history.orgs[0];
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    guard.step(run(HoldId::generate())).await.unwrap();
    guard.step(settle(90)).await.unwrap();
    database.grant(org, credits(5), None, TOP_UP, None).await.unwrap();
    database.statement(org, history.month).await.unwrap();
    database.make_partitions().await.unwrap();
    assert_eq!(database.audit().await.unwrap().breaches, []);
    ledger.shut_down().await;
    // The server ends what idles in a transaction.
    alone(&history).await;
    assert_eq!(archived(&history).await, 0);
    drop(stopped);
    assert_eq!(database.audit().await.unwrap().breaches, []);
}
