//! Plans of statements: which index they use, and what becomes of one whose result has another type than when it was prepared.

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tollgate::ids::KeyId;
use tollgate::secret::Secret;
use tollgate::store::{Applied, Database, Fingerprint, HoldGuard, NewHold, State, Step, TaskFilter};

use crate::support::database::{PATIENCE, TestDatabase, until};
use crate::support::fixture::{HOUR, doubt, grant, ledger, refuse, settle, write_off};
use crate::support::seed::user_named;
use crate::support::tenant::{Tenant, history};

#[tokio::test]
async fn a_connection_whose_plans_are_outdated_is_replaced() {
    let db = TestDatabase::new().await;
    db.database().providers().await.unwrap();
    // Another type of the wire, but still a text.
    sqlx::raw_sql("alter table identity_provider alter column issuer type varchar(500)")
        .execute(db.pool())
        .await
        .unwrap();
    until("statements are prepared anew", async || db.database().providers().await.is_ok()).await;
}

/// How many lists of a kind are made. What each of them reads is counted exactly.
const LISTS: i64 = 10;

/// Rows of these tables that backends read while `calls` are made. A backend tells what it has read at its end, at the
/// latest: so all of this database are ended, and the calls get a pool of their own.
async fn rows_read(db: &TestDatabase, tables: &[&str], calls: impl AsyncFnOnce(&Database)) -> i64 {
    let mut looking = PgConnection::connect(db.url()).await.unwrap();
    let before = told(&mut looking, tables).await;
    calls(&Database::connect(&Secret::new(db.url()), 2, PATIENCE).unwrap()).await;
    told(&mut looking, tables).await - before
}

async fn told(looking: &mut PgConnection, tables: &[&str]) -> i64 {
    let others = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    until("no other backend is left", async || {
        looking.execute(AssertSqlSafe(format!("select pg_terminate_backend(pid) {others}"))).await.unwrap();
        let left: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) {others}")))
            .fetch_one(&mut *looking)
            .await
            .unwrap();
        left == 0
    })
    .await;
    let read = "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0)::bigint from pg_stat_user_tables \
                where coalesce(pg_partition_root(relid)::regclass::text, relname) = any($1)";
    sqlx::query_scalar(read).bind(tables).fetch_one(looking).await.unwrap()
}

#[tokio::test]
async fn no_list_of_tasks_reads_the_whole_history() {
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 0).await;
    history(&db, &tenant, 20_000).await;
    let label =
        "insert into label (org_id, hold_id, name, value) select org_id, hold_id, 'project', 'x' from hold";
    db.pool().execute(label).await.unwrap();
    db.pool().execute("analyze").await.unwrap();
    let others = db.database().add_user(tenant.org, &user_named("grace")).await.unwrap();
    let states = |states: &[State]| TaskFilter { states: Some(states.to_vec()), ..TaskFilter::default() };
    let of_user = |user, filter| TaskFilter { user: Some(user), ..filter };
    let labelled =
        |value: &str, filter| TaskFilter { label: Some(("project".into(), value.into())), ..filter };
    let of_type = |name: &str, filter| TaskFilter { task_type: Some(name.into()), ..filter };
    let of_key = |key, filter| TaskFilter { key: Some(key), ..filter };
    for (filter, found) in [
        (TaskFilter::default(), 21),
        (states(&[State::Settled]), 21),
        (states(&[State::Released, State::WrittenOff]), 0),
        (states(&[State::Held, State::Running, State::InDoubt]), 0),
        (of_user(tenant.user, TaskFilter::default()), 21),
        (of_user(tenant.user, states(&[State::Settled])), 21),
        (of_user(tenant.user, states(&[State::Running, State::Released])), 0),
        (of_user(others, TaskFilter::default()), 0),
        (of_user(others, states(&[State::Settled])), 0),
        (of_key(tenant.key, TaskFilter::default()), 21),
        (of_key(tenant.key, states(&[State::InDoubt])), 0),
        (of_key(KeyId::generate(), states(&[State::Settled])), 0),
        (labelled("x", TaskFilter::default()), 21),
        (labelled("x", states(&[State::Settled])), 21),
        (labelled("x", of_user(tenant.user, TaskFilter::default())), 21),
        (labelled("x", of_user(others, TaskFilter::default())), 0),
        (labelled("x", states(&[State::Running, State::Released])), 0),
        (labelled("y", TaskFilter::default()), 0),
        (of_type("nothing", TaskFilter::default()), 0),
        (of_type("nothing", of_user(tenant.user, states(&[State::Settled]))), 0),
        (of_type("nothing", labelled("x", TaskFilter::default())), 0),
        (of_type("nothing", of_user(others, TaskFilter::default())), 0),
    ] {
        for as_shown in [false, true] {
            let filter = TaskFilter { as_shown, ..filter.clone() };
            let read = rows_read(&db, &["hold", "open_task", "unpaid_task", "entry"], async |database| {
                for _ in 0..LISTS {
                    assert_eq!(database.tasks(tenant.org, &filter, 21).await.unwrap().len(), found);
                    let looked = database.looked_until(tenant.org, &filter).await.unwrap();
                    let labelled = filter.label.as_ref().is_some_and(|(_, value)| value == "x");
                    let typed = filter.task_type.is_some() && filter.user != Some(others);
                    assert_eq!(looked.is_some(), labelled || typed, "{filter:?}");
                }
            })
            .await;
            // What is found is read, or else nothing is counted at all.
            let least = LISTS * i64::try_from(found).unwrap();
            assert!((least..=LISTS * 2_000).contains(&read), "{filter:?}: {read} rows for {LISTS} lists");
        }
    }
}

/// What is open comes and goes, and whoever takes statistics while nothing is open notes that the table has no rows.
#[tokio::test]
async fn what_is_done_to_open_tasks_reads_no_others_when_statistics_know_of_none() {
    const OPEN: usize = 1_500;
    const SOME: usize = 30;
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 100_000).await;
    let ledger = ledger(&db).await;
    db.pool().execute("alter table open_task set (autovacuum_enabled = off)").await.unwrap();
    grant(&ledger, tenant.hold(10)).await.step(refuse()).await.unwrap();
    // It has a page now, and no rows.
    db.pool().execute("analyze open_task").await.unwrap();
    let mut open = join_all((0..OPEN).map(|_| grant(&ledger, tenant.hold(10)))).await;

    // Each of these batches may read a few rows for each of its tasks, and none of the others.
    let counted = async |what: &str, guards: Vec<HoldGuard>, step: &dyn Fn(&HoldGuard) -> Step| {
        let mut guards = guards;
        let read = rows_read(&db, &["open_task"], async |_| {
            for done in join_all(guards.iter_mut().map(|guard| guard.step(step(guard)))).await {
                assert_eq!(done.unwrap(), Applied::Yes);
            }
        });
        assert_few(what, read.await, SOME);
        guards
    };
    let run = |guard: &HoldGuard| Step::Run {
        task: guard.id().to_string().into(),
        raw: None,
        poll_in: Duration::ZERO,
    };
    let running = counted("accepted", open.split_off(OPEN - SOME), &run).await;
    let doubts = counted("in doubt", open.split_off(OPEN - 2 * SOME), &|_| doubt()).await;
    let claims = rows_read(&db, &["open_task"], async |database| {
        let claimed = database.claim_due("kling-3.0", 100, HOUR, &[]).await.unwrap();
        assert_eq!(claimed.len(), SOME);
    });
    assert_few("claimed", claims.await, SOME);
    counted("settled", running, &|_| settle(10)).await;
    counted("written off", doubts, &|_| write_off(10)).await;
    let reserved = rows_read(&db, &["open_task"], async |_| {
        for guard in join_all((0..SOME).map(|_| grant(&ledger, tenant.hold(10)))).await {
            ledger.step(guard.org(), guard.id(), refuse()).await.unwrap();
        }
    });
    assert_few("reserved and refused", reserved.await, SOME);

    // Whoever sends the same body again and again, on purpose, does not have it looked for.
    let body = Fingerprint::of(b"the same");
    let again = || NewHold {
        fingerprint: body,
        refuse_if_in_doubt: true,
        refuse_if_unanswered: false,
        ..tenant.hold(10)
    };
    let mut same = join_all((0..10 * SOME).map(|_| grant(&ledger, again()))).await;
    let reserved = rows_read(&db, &["open_task"], async |_| {
        same.extend(join_all((0..SOME).map(|_| grant(&ledger, again()))).await);
    });
    assert_eq!(reserved.await, 0, "rows for {SOME} tasks of the same body");

    // Nor are all notes read of a user who left such creates again and again.
    sqlx::query(
        "insert into gone_caller (org_id, user_id, fingerprint, hold_id) \
         select $1, $2, $3, gen_random_uuid() from generate_series(1, 5000)",
    )
    .bind(tenant.org.as_uuid())
    .bind(tenant.user.as_uuid())
    .bind(body.as_bytes())
    .execute(db.pool())
    .await
    .unwrap();
    let notes = rows_read(&db, &["gone_caller"], async |_| {
        same.extend(join_all((0..SOME).map(|_| grant(&ledger, again()))).await);
    });
    let (read, most) = (notes.await, i64::try_from(2 * 16 * SOME).unwrap());
    assert!((1..=most).contains(&read), "{read} notes for {SOME} tasks");
}

/// Tasks that came due at one instant are the worst: whoever sorts or counts them looks at all of them.
#[tokio::test]
async fn a_claim_reads_no_more_of_a_backlog_than_it_claims() {
    const CLAIMED: usize = 10;
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 100_000).await;
    let ledger = ledger(&db).await;
    let mut open = join_all((0..1_000).map(|_| grant(&ledger, tenant.hold(10)))).await;
    let run = |guard: &HoldGuard| Step::Run {
        task: guard.id().to_string().into(),
        raw: None,
        poll_in: Duration::ZERO,
    };
    for done in join_all(open.iter_mut().map(|guard| guard.step(run(guard)))).await {
        assert_eq!(done.unwrap(), Applied::Yes);
    }
    std::mem::forget(open);
    db.pool().execute("update open_task set due_at = now() - interval '1 hour'").await.unwrap();
    db.pool().execute("vacuum (analyze) open_task").await.unwrap();
    let claims = rows_read(&db, &["open_task"], async |database| {
        assert_eq!(database.claim_due("kling-3.0", 10, HOUR, &[]).await.unwrap().len(), CLAIMED);
    });
    assert_few("claimed", claims.await, CLAIMED);
}

/// A few rows for each task, and not none: else nothing was counted at all.
fn assert_few(what: &str, read: i64, tasks: usize) {
    let most = i64::try_from(tasks * 10).unwrap();
    assert!((1..=most).contains(&read), "{what}: {read} rows for {tasks} tasks");
}
