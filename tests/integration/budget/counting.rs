//! How a new budget comes to count what was spent before it: beside the lock, and complete.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinSet;
use tollgate::ids::{BudgetId, HoldId};
use tollgate::store::BudgetLevel::{Key, Organisation, Team, User};
use tollgate::store::Period::{Daily, Monthly, Total, Weekly};
use tollgate::store::{BudgetChange, Ledger, NewHold, OrgChange, StoreError, Verdict};

use crate::support::database::{PATIENCE, TestDatabase, until};
use crate::support::fixture::{
    credits, doubt, grant, late_run, late_settle, ledger, refuse, run, settle, write_off,
};
use crate::support::gateway::MASTER_KEY;
use crate::support::process::{Process, Scratch};
use crate::support::tenant::{Tenant, history, make, without_autovacuum};

/// Makes a budget of the organisation's keys and leaves the count to others.
async fn coming(db: &TestDatabase, tenant: &Tenant, credits: i64) {
    sqlx::query(
        "insert into budget (budget_id, org_id, level, period, credits) \
         values (gen_random_uuid(), $1, 'key', 'total', $2)",
    )
    .bind(tenant.org.as_uuid())
    .bind(credits)
    .execute(db.pool())
    .await
    .unwrap();
}

const ADVANCE: &str =
    "select advance_count(org_id, budget_id, 1000, 3) from budget_count order by random() limit 1";
const PLACES: &str = "select count(*) from budget_count_place where done = $1";
const LEFT: &str = "select count(*) from budget_count";

async fn places(db: &TestDatabase, done: bool) -> i64 {
    sqlx::query_scalar(PLACES).bind(done).fetch_one(db.pool()).await.unwrap()
}

/// Takes steps of counts until there is a count that has come so far.
async fn advance_until_placed(db: &TestDatabase, done: bool) {
    while places(db, done).await == 0 {
        sqlx::query(ADVANCE).execute(db.pool()).await.unwrap();
    }
}

async fn count(db: &TestDatabase, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(db.pool()).await.unwrap()
}

async fn kept(ledger: &Ledger, new: NewHold) -> HoldId {
    let guard = grant(ledger, new).await;
    let id = guard.id();
    std::mem::forget(guard);
    id
}

/// While the row is locked by somebody else the count goes on, to the last step; and what is granted and ends meanwhile is
/// neither missed nor counted twice.
#[tokio::test]
async fn history_is_counted_without_the_balance_row() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1_000_000).await);
    history(&db, &tenant, 20_000).await;
    let open = kept(&ledger, tenant.hold(100)).await;
    coming(&db, &tenant, 90 * 20_000 + 1000).await;
    advance_until_placed(&db, false).await;
    // What is made now lists the window, and is not refused.
    let meanwhile = kept(&ledger, tenant.hold(100)).await;
    kept(&ledger, tenant.hold(200_000)).await;
    ledger.step(tenant.org, open, run(open)).await.unwrap();
    ledger.step(tenant.org, open, settle(70)).await.unwrap();

    let mut rival = db.pool().begin().await.unwrap();
    sqlx::query("select from org_balance for no key update").execute(&mut *rival).await.unwrap();
    advance_until_placed(&db, true).await;
    rival.rollback().await.unwrap();

    ledger.step(tenant.org, meanwhile, refuse()).await.unwrap();
    assert_eq!(tenant.drawn(&db).await[0].2, None, "it is not in force");
    db.database().count_budgets(PATIENCE).await.unwrap();
    let limit = 90 * 20_000 + 1000;
    assert_eq!(tenant.drawn(&db).await, [(90 * 20_000 + 70, 200_000, Some(limit))]);
    let over = ledger.reserve(tenant.hold(1)).await.unwrap();
    assert!(matches!(over, Verdict::OverBudget { .. }), "{over:?}");
}

/// Each step under the row reads open holds and sums; what it reads must not grow with what has ended.
#[tokio::test]
async fn no_step_under_the_balance_row_reads_history() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1_000_000).await);
    without_autovacuum(&db).await;
    for _ in 0..4 {
        kept(&ledger, tenant.hold(100)).await;
    }
    history(&db, &tenant, 20_000).await;
    coming(&db, &tenant, 0).await;
    let read = "select sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid))::bigint \
                from pg_class where relname ~ '^(hold|entry|usage|budget_window)'";
    let mut steps = 0;
    while count(&db, LEFT).await > 0 {
        let under = places(&db, false).await == 0;
        // Of its own: the server counts for each connection what it has not reported yet.
        let mut step = PgConnection::connect(db.url()).await.unwrap();
        step.execute("begin").await.unwrap();
        sqlx::query(ADVANCE).execute(&mut step).await.unwrap();
        let read: i64 = sqlx::query_scalar(read).fetch_one(&mut step).await.unwrap();
        step.execute("commit").await.unwrap();
        assert!(!under || read < 500, "{read} rows read under the row");
        steps += i32::from(under);
    }
    assert!(steps >= 3, "{steps} steps under the row");
    assert_eq!(tenant.drawn(&db).await, [(90 * 20_000, 400, Some(0))]);
}

/// A gateway may wait for the row to look at open holds while another does so, and gets on to what comes next.
#[tokio::test]
async fn who_waited_for_the_row_goes_on_from_where_others_have_come() {
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 1000).await;
    history(&db, &tenant, 10).await;
    coming(&db, &tenant, 5).await;
    let mut other = db.pool().begin().await.unwrap();
    let there = "select exists (select from budget_count_place)";
    while !sqlx::query_scalar::<_, bool>(there).fetch_one(&mut *other).await.unwrap() {
        sqlx::query(ADVANCE).execute(&mut *other).await.unwrap();
    }
    let committing = async {
        let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        until("it waits for the row", async || count(&db, waits).await > 0).await;
        other.commit().await.unwrap();
    };
    let (advanced, ()) = tokio::join!(sqlx::query(ADVANCE).execute(db.pool()), committing);
    advanced.unwrap();
    assert_eq!(count(&db, LEFT).await, 1, "nothing was counted yet");
    db.database().count_budgets(PATIENCE).await.unwrap();
    assert_eq!(tenant.drawn(&db).await, [(900, 0, Some(5))]);
}

/// A budget that is wider than one that was there, narrower, or made again, and one whose clock changes: what is in force
/// refuses until the new one does.
#[tokio::test]
async fn what_is_in_force_stays_so_until_another_budget_is_complete() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1_000_000).await);
    let refused = async |by: BudgetId| match ledger.reserve(tenant.hold(500)).await.unwrap() {
        Verdict::OverBudget { budget, .. } => assert_eq!(budget, by),
        other => panic!("{other:?}"),
    };
    kept(&ledger, tenant.hold(100)).await;
    let wide = make(&db, Some(tenant.org), Key, None, Daily, Some(500)).await.unwrap();
    // A narrower one, whose count nobody works on: everything was counted all the while, so one step is enough.
    sqlx::query("insert into budget (budget_id, org_id, level, subject_id, period, credits) values (gen_random_uuid(), $1, 'key', $2, 'daily', 100000)")
        .bind(tenant.org.as_uuid())
        .bind(tenant.key.as_uuid())
        .execute(db.pool())
        .await
        .unwrap();
    refused(wide).await;
    sqlx::query(ADVANCE).execute(db.pool()).await.unwrap();
    assert_eq!(count(&db, LEFT).await, 0);
    sqlx::query("delete from budget where subject_id is not null").execute(db.pool()).await.unwrap();
    refused(wide).await;
    // Another clock, whose windows nobody has counted.
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Pacific/Kiritimati"] {
        sqlx::query("update org set time_zone = $1").bind(zone).execute(db.pool()).await.unwrap();
        refused(wide).await;
        sqlx::query(ADVANCE).execute(db.pool()).await.unwrap();
        refused(wide).await;
        kept(&ledger, tenant.hold(10)).await;
    }
    assert_eq!(tenant.drawn(&db).await[0].2, Some(500));
    db.database().count_budgets(PATIENCE).await.unwrap();
    refused(wide).await;
    assert_eq!(tenant.drawn(&db).await, [(0, 130, Some(500))]);
}

/// What had ended before a budget was made, and comes to light while it is counted or later, counts.
#[tokio::test]
async fn what_comes_to_light_late_is_counted_by_a_budget_that_was_made_after_its_end() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1_000_000).await);
    let mut lost = Vec::new();
    for _ in 0..3 {
        let mut guard = grant(&ledger, tenant.hold(100)).await;
        guard.step(doubt()).await.unwrap();
        guard.step(write_off(100)).await.unwrap();
        lost.push(guard.id());
    }
    let found = async |id: HoldId, charge| {
        ledger.step(tenant.org, id, late_run()).await.unwrap();
        ledger.step(tenant.org, id, late_settle(charge)).await.unwrap();
    };
    found(lost[0], 1).await;
    coming(&db, &tenant, 1000).await;
    advance_until_placed(&db, false).await;
    found(lost[1], 20).await;
    db.database().count_budgets(PATIENCE).await.unwrap();
    found(lost[2], 300).await;
    assert_eq!(tenant.drawn(&db).await, [(321, 0, Some(1000))]);
}

/// Every organisation by itself: one whose row is locked does not keep the others waiting; who is new has it at once.
#[tokio::test]
async fn a_default_comes_into_force_in_one_organisation_after_the_other() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let mut tenants = Vec::new();
    for _ in 0..12 {
        let tenant = Tenant::new(&db, 10_000).await;
        kept(&ledger, tenant.hold(60)).await;
        tenants.push(tenant);
    }
    let mut rival = db.pool().begin().await.unwrap();
    sqlx::query("select from org_balance where org_id = $1 for no key update")
        .bind(tenants[5].org.as_uuid())
        .execute(&mut *rival)
        .await
        .unwrap();
    let (made, new) = tokio::join!(make(&db, None, Key, None, Total, Some(100)), async {
        until("all but one are done", async || count(&db, LEFT).await == 1).await;
        let new = Tenant::new(&db, 10_000).await;
        let over = ledger.reserve(new.hold(101)).await.unwrap();
        assert!(matches!(over, Verdict::OverBudget { .. }), "{over:?}");
        rival.rollback().await.unwrap();
        new
    });
    let budget = made.unwrap();
    db.database().count_budgets(PATIENCE).await.unwrap();
    assert!(!db.database().budget(budget).await.unwrap().unwrap().counting);
    for tenant in &tenants {
        assert_eq!(tenant.drawn(&db).await, [(0, 60, Some(100))]);
        let over = ledger.reserve(tenant.hold(41)).await.unwrap();
        assert!(matches!(over, Verdict::OverBudget { .. }), "{over:?}");
    }
    let change = BudgetChange { credits: Some(Some(credits(70))), thresholds: None };
    db.database().change_budget(budget, change, None).await.unwrap();
    let events = "select count(distinct org_id) from budget_event where credits = 70 and threshold = 80";
    assert_eq!(count(&db, events).await, 12);
    db.database().delete_budget(budget, None).await.unwrap();
    assert_eq!(count(&db, "select count(*) from org_balance where budgets > 0").await, 0);
    assert_eq!(count(&db, LEFT).await, 0);
    kept(&ledger, new.hold(5000)).await;
}

/// One after the other of what may happen to a tenant's tasks.
async fn live(ledger: &Ledger, tenant: &Tenant, kind: usize) {
    let guard = match ledger.reserve(tenant.hold(10)).await.unwrap() {
        Verdict::Granted(guard) => guard,
        Verdict::OverBudget { .. } => return,
        other => panic!("{other:?}"),
    };
    let id = guard.id();
    std::mem::forget(guard);
    let steps = match kind % 5 {
        0 => vec![],
        1 => vec![refuse()],
        2 => vec![doubt(), write_off(10), late_run(), late_settle(3)],
        3 => vec![run(id), settle(13)],
        _ => vec![run(id), settle(7)],
    };
    for step in steps {
        ledger.step(tenant.org, id, step).await.unwrap();
    }
}

/// Budgets of all levels and periods, and clocks, come and go while tasks do; counts are made in slices of a few rows, by
/// several at once. The audit at the end compares every window with the tasks in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_window_is_exact_whatever_happens_while_it_is_counted() {
    let db = Arc::new(TestDatabase::new().await);
    let ledger = Arc::new(ledger(&db).await);
    let tenants = Arc::new([Tenant::new(&db, 1_000_000).await, Tenant::new(&db, 1_000_000).await]);
    history(&db, &tenants[0], 40).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut busy = JoinSet::new();
    for worker in 0..4 {
        let (ledger, tenants, over) = (ledger.clone(), tenants.clone(), over.clone());
        busy.spawn(async move {
            let mut round = worker;
            while !over.load(Ordering::Relaxed) {
                live(&ledger, &tenants[worker % 2], round).await;
                round += 1;
            }
        });
    }
    for _ in 0..2 {
        let (db, over) = (db.clone(), over.clone());
        busy.spawn(async move {
            let slice =
                "select advance_count(org_id, budget_id, 7, 2) from budget_count order by random() limit 1";
            while !over.load(Ordering::Relaxed) {
                sqlx::query(slice).execute(db.pool()).await.unwrap();
            }
        });
    }
    let database = db.database();
    let mut made: Vec<BudgetId> = Vec::new();
    for round in 0..60usize {
        let tenant = &tenants[round / 3 % 2];
        let level = [Key, User, Team, Organisation][round % 4];
        let period = [Daily, Weekly, Monthly, Total][round / 4 % 4];
        let own = match level {
            Key => Some(tenant.key.to_string()),
            User => Some(tenant.user.to_string()),
            Team => Some(tenant.team.to_string()),
            Organisation => None,
        };
        let (org, subject) = match round % 3 {
            0 => (Some(tenant.org), own),
            1 => (Some(tenant.org), None),
            _ => (None, None),
        };
        match make(&db, org, level, subject, period, Some(i64::try_from(round).unwrap() * 1000)).await {
            Ok(budget) => made.push(budget),
            Err(StoreError::Conflict(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
        match round % 5 {
            0 if made.len() > 3 => {
                database.delete_budget(made.remove(round % made.len()), None).await.unwrap();
            }
            1 => {
                let zone = ["Asia/Kolkata", "Pacific/Kiritimati", "UTC"][round % 3];
                let change = OrgChange { time_zone: Some(zone.into()), ..OrgChange::default() };
                database.update_org(tenant.org, change, None).await.unwrap();
            }
            2 if !made.is_empty() => {
                let change = BudgetChange { credits: Some(None), thresholds: None };
                database.change_budget(made[round % made.len()], change, None).await.unwrap();
            }
            _ => {}
        }
    }
    over.store(true, Ordering::Relaxed);
    busy.join_all().await;
    database.count_budgets(PATIENCE).await.unwrap();
    assert_eq!(count(&db, LEFT).await, 0);
    assert!(count(&db, "select count(*) from budget_window where opening > 0").await > 0);
    assert_eq!(database.audit().await.unwrap().breaches, []);
    assert_eq!(count(&db, "select count(*) from budget_count_place").await, 0);
    assert_eq!(count(&db, "select count(*) from budget_count_sum").await, 0);
}

/// From the moment in which a budget is in force nothing is granted beyond it, on the strength of what was spent before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_go_on_while_a_budget_is_counted_and_end_at_its_limit() {
    const TASKS: i64 = 10_000;
    // Ten times as many as are made while the tasks are counted.
    const LEFT_TO_SPEND: i64 = 1_000;
    let db = Arc::new(TestDatabase::new().await);
    let ledger = Arc::new(ledger(&db).await);
    let tenant = Arc::new(Tenant::new(&db, 10_000_000).await);
    let mate = Tenant::new(&db, 10_000).await;
    history(&db, &tenant, i32::try_from(TASKS).unwrap()).await;
    let mut callers = JoinSet::new();
    for _ in 0..12 {
        let (ledger, tenant) = (ledger.clone(), tenant.clone());
        callers.spawn(async move {
            let mut granted = 0;
            loop {
                match ledger.reserve(tenant.hold(1000)).await.unwrap() {
                    Verdict::Granted(guard) => {
                        let id = guard.id();
                        std::mem::forget(guard);
                        ledger.step(tenant.org, id, run(id)).await.unwrap();
                        ledger.step(tenant.org, id, settle(1000)).await.unwrap();
                        granted += 1;
                    }
                    Verdict::OverBudget { .. } => return granted,
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    coming(&db, &tenant, TASKS * 90 + 1000 * LEFT_TO_SPEND).await;
    let counted = AtomicBool::new(false);
    let counting = async {
        while count(&db, LEFT).await > 0 {
            sqlx::query(ADVANCE).execute(db.pool()).await.unwrap();
        }
        counted.store(true, Ordering::Relaxed);
    };
    let others = async {
        while !counted.load(Ordering::Relaxed) {
            let id = kept(&ledger, mate.hold(1)).await;
            ledger.step(mate.org, id, refuse()).await.unwrap();
        }
    };
    tokio::join!(counting, others);
    let granted: i64 = callers.join_all().await.into_iter().sum();
    let (used, held, limit) = tenant.drawn(&db).await[0];
    assert_eq!(
        (used, held, limit),
        (TASKS * 90 + 1000 * granted, 0, Some(TASKS * 90 + 1000 * LEFT_TO_SPEND))
    );
    assert!(granted == LEFT_TO_SPEND, "{granted} granted");
}

/// Another gateway goes on where one has died.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_is_finished_by_another_gateway_when_one_dies_in_it() {
    if !cfg!(debug_assertions) {
        return;
    }
    const TASKS: i64 = 25_000;
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 1000).await;
    history(&db, &tenant, i32::try_from(TASKS).unwrap()).await;
    coming(&db, &tenant, 5).await;
    advance_until_placed(&db, false).await;
    let scratch = Scratch::new();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://127.0.0.1:9\"\nmaster_key = \"{MASTER_KEY}\"\n",
        db.url()
    );
    let arguments = ["serve", "--config", &scratch.file("gateway.toml", &config)];
    let mut first = Process::with_env(&arguments, &[("TOLLGATE_FAIL_POINT", "budget.counting=kill")]);
    first.rest_of_log().await.unwrap();
    let begun: i64 = count(&db, "select sum(charged)::bigint from budget_count_sum").await;
    assert!(begun > 0 && begun < TASKS * 90 && places(&db, true).await == 0, "{begun}");
    let second = Process::start(&arguments);
    until("it is counted", async || count(&db, LEFT).await == 0).await;
    assert_eq!(tenant.drawn(&db).await, [(TASKS * 90, 0, Some(5))]);
    second.terminate();
    assert_eq!(second.ended().await, 0);
}

/// A change does not wait for the count of a locked organisation for ever, and is not undone by it.
#[tokio::test]
async fn a_change_is_answered_when_its_count_must_wait() {
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 1000).await;
    let mut rival = db.pool().begin().await.unwrap();
    sqlx::query("select from org_balance for no key update").execute(&mut *rival).await.unwrap();
    let budget = make(&db, Some(tenant.org), User, None, Weekly, Some(10)).await.unwrap();
    assert!(db.database().budget(budget).await.unwrap().unwrap().counting);
    rival.rollback().await.unwrap();
    db.database().count_budgets(Duration::from_secs(60)).await.unwrap();
    assert!(!db.database().budget(budget).await.unwrap().unwrap().counting);
}
