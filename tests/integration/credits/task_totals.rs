//! Sums of charged tasks: drift and what-if say the same with them and without them, wherever the sums have got to.

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::AssertSqlSafe;
use tollgate::credits::PriceFactor;
use tollgate::ids::{HoldId, OrgId};
use tollgate::pricing::BookVersion;
use tollgate::store::{Ledger, NewHold, Step};

use crate::holds::archived::History;
use crate::support::aged::by_hand;
use crate::support::database::TestDatabase;
use crate::support::fixture::{
    credits, doubt, fail, funded, grant, late_fail, late_run, ledger, new_hold, refuse, run, write_off,
};
use crate::support::tenant::{Tenant, history};

const VENDOR: BookVersion = BookVersion::new(1);
const TYPES: [&str; 2] = ["pro-text-to-video", "o3-pro-video-edit"];

/// All charged tasks, from the holds and from the sums with the tasks behind them, as one statement sees both.
const BOTH: &str = "select \
    (select format('%s %s %s', count(*), coalesce(sum(charged), 0), coalesce(sum(reported), 0)) from hold where state = 'SETTLED'), \
    (select format('%s %s', coalesce(sum(t.tasks), 0), coalesce(sum(t.charged), 0)) from (select tasks, charged from price_total \
       union all select 1, charged from tasks_behind()) t) \
    || (select format(' %s', coalesce(sum(t.reported), 0)) from (select reported from drift_total union all select reported from tasks_behind()) t)";

/// The hour in which both reports begin so many days ago.
const HOUR: &str = "select date_bin('1 hour', now(), '2000-01-01Z')::text";

/// With an entry of before there were places, reports read every task.
const READ_EVERY: &str =
    "insert into history_seal values ('ffffffff-ffff-4fff-8fff-ffffffffffff', 1, 0, 0, 0)";

const READ_SUMS: &str = "delete from history_seal where org_id = 'ffffffff-ffff-4fff-8fff-ffffffffffff'";

async fn one(db: &TestDatabase, sql: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db.pool()).await.unwrap()
}

async fn set(db: &TestDatabase, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
}

/// Both reports, over some times.
async fn told(db: &TestDatabase) -> String {
    let mut told = String::new();
    for days in [1, 2, 3, 90] {
        let drift = db.database().drift(days).await.unwrap();
        let what_if = db.database().what_if(VENDOR, days).await.unwrap();
        told += &format!("{days} {drift:#?} {what_if:#?}\n");
    }
    told
}

/// What is told from the sums is what is told from every task.
async fn assert_same(db: &TestDatabase, when: &str) {
    loop {
        let hour = one(db, HOUR).await;
        let found = told(db).await;
        set(db, READ_EVERY).await;
        let expected = told(db).await;
        set(db, READ_SUMS).await;
        if one(db, HOUR).await == hour {
            assert_eq!(found, expected, "{when}");
            return;
        }
    }
}

/// Success, charged with this factor.
fn charged(raw: i64, reported: i64, factor: PriceFactor) -> Step {
    let charge = factor.apply(credits(raw)).unwrap();
    Step::Settle { task: None, raw: credits(raw), reported: Some(credits(reported)), charge, flag: None }
}

/// How each task ends, in turn: charged as listed, otherwise, with a drift, not at all, and late.
fn life(n: usize, factor: PriceFactor) -> Vec<Step> {
    let hold = HoldId::generate();
    let raw = credits(70);
    let late = Step::LateSettle { raw, reported: Some(raw), charge: factor.apply(raw).unwrap() };
    match n % 9 {
        0 | 1 => vec![run(hold), charged(100, 100, factor)],
        2 => vec![run(hold), charged(73, 73, factor)],
        3 => vec![run(hold), charged(90, 85, factor)],
        4 => vec![run(hold), fail(30)],
        5 => vec![refuse()],
        6 => vec![doubt(), write_off(100), late_run(), late],
        7 => vec![doubt(), write_off(100), late_run(), late_fail(20)],
        _ => vec![doubt(), write_off(100)],
    }
}

async fn of_all_kinds(ledger: &Ledger, org: OrgId, tasks: usize) {
    for n in 0..tasks {
        let factor = PriceFactor::new(if n % 5 == 0 { 5_000 } else { 10_000 }).unwrap();
        let new = NewHold {
            amount: factor.apply(credits(100)).unwrap(),
            factor,
            task_type: TYPES[n / 9 % 2].into(),
            account: if n % 4 == 0 { "other".into() } else { "main".into() },
            ..new_hold(org, 100)
        };
        let mut guard = grant(ledger, new).await;
        for step in life(n, factor) {
            guard.step(step).await.unwrap();
        }
    }
}

/// Makes tasks older by some times about the beginnings of days, and some made long before they ended.
async fn older(db: &TestDatabase) {
    by_hand(
        db,
        "create temporary table older on commit drop as select org_id, hold_id, (array['0', '23:50', '24:20', '24:55', '30:00', '49:00', \
           '80:00'])[1 + row_number() over (order by hold_id) % 7]::interval as made from hold where ended_at > now() - interval '20 minutes'; \
         update hold h set created_at = h.created_at - o.made, ended_at = h.ended_at - o.made / 2 from older o \
           where o.org_id = h.org_id and o.hold_id = h.hold_id; \
         update drifted_task d set ended_at = h.ended_at from hold h where h.org_id = d.org_id and h.hold_id = d.hold_id; \
         update unpaid_task u set ended_at = h.ended_at from hold h where h.org_id = u.org_id and h.hold_id = u.hold_id",
    )
    .await;
}

/// How many rows of the sums the audit objects to.
async fn sums_that_are_wrong(db: &TestDatabase) -> usize {
    let report = db.database().audit().await.unwrap();
    report.breaches.iter().filter(|finding| finding.check == "sums of tasks = tasks").count()
}

#[tokio::test]
async fn sums_of_tasks_change_no_figure_wherever_they_have_got_to() {
    let mut db = TestDatabase::new().await;
    // Tasks are made older than their entries.
    db.expect_broken();
    let ledger = ledger(&db).await;
    let orgs = [funded(&db, 1_000_000).await, funded(&db, 1_000_000).await];
    of_all_kinds(&ledger, orgs[0], 40).await;
    of_all_kinds(&ledger, orgs[1], 20).await;
    older(&db).await;
    ledger.shut_down().await;

    let mut added = Vec::new();
    loop {
        assert_same(&db, &format!("after {added:?}")).await;
        assert_eq!(sums_that_are_wrong(&db).await, 0);
        match db.database().add_tasks_to_totals(7).await.unwrap() {
            Some(0) => break,
            more => added.push(more.unwrap()),
        }
    }
    assert!(added.len() > 3 && added.iter().all(|more| *more <= 7), "{added:?}");
    // Nothing is behind; tasks that nobody paid for are from before it was noted when they ended.
    assert_eq!(one(&db, "select count(*)::text from tasks_behind()").await, "0");
    set(&db, "update unpaid_task set ended_at = null, account = null, figures = null").await;
    assert_same(&db, "without dates").await;
    db.database().add_tasks_to_totals(1_000).await.unwrap();
    assert_eq!(one(&db, "select count(*)::text from unpaid_task where ended_at is null").await, "0");
    assert_same(&db, "with dates").await;
    // Of what is in the sums, nothing else is read any more.
    let expected = told(&db).await;
    by_hand(
        &db,
        "update hold set charged = 7, raw_consumed = 7, reported = 7 where state = 'SETTLED' and drift = 0",
    )
    .await;
    assert_eq!(told(&db).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_and_the_tasks_behind_them_are_all_tasks_at_every_instant() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let orgs = [funded(&db, 1 << 30).await, funded(&db, 1 << 30).await, funded(&db, 1 << 30).await];
    let spending = join_all(orgs.map(|org| of_all_kinds(&ledger, org, 60)));
    let adding = join_all((0..3).map(async |n| {
        for _ in 0..60 {
            db.database().add_tasks_to_totals(2 + n).await.unwrap();
        }
    }));
    let looking = async {
        for _ in 0..80 {
            let (direct, summed): (String, String) = sqlx::query_as(BOTH).fetch_one(db.pool()).await.unwrap();
            assert_eq!(direct, summed);
        }
    };
    tokio::join!(spending, adding, looking);
    ledger.shut_down().await;
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
    while db.database().add_tasks_to_totals(50).await.unwrap() > Some(0) {}
    let (direct, summed): (String, String) = sqlx::query_as(BOTH).fetch_one(db.pool()).await.unwrap();
    assert_eq!(direct, summed);
    assert_eq!(one(&db, "select count(*)::text from tasks_behind()").await, "0");
}

/// With the sums made before the month leaves, and while it is away.
#[tokio::test]
async fn what_leaves_for_an_archive_leaves_the_sums_and_comes_back() {
    for entries in [1_000, 20] {
        let history = History::new().await;
        let db = &history.db;
        let archive = history.archived().await;
        let compared = async |when: &str| {
            assert_same(db, when).await;
            let (direct, summed): (String, String) = sqlx::query_as(
                "select (select format('%s %s', count(*), sum(reported)) from hold where state = 'SETTLED'), (select format('%s %s', \
                   sum(t.tasks), sum(t.reported)) from (select tasks, reported from drift_total union all select 1, reported from tasks_behind()) t)",
            )
            .fetch_one(db.pool())
            .await
            .unwrap();
            assert_eq!(direct, summed, "{when}");
            assert_eq!(db.database().audit().await.unwrap().breaches, []);
        };
        db.database().add_tasks_to_totals(entries).await.unwrap();
        compared("before").await;
        let left = db.database().detach_month(history.month, &archive, 1).await.unwrap();
        assert!(left.tasks > 0);
        compared("away").await;
        db.database().add_tasks_to_totals(25).await.unwrap();
        compared("added while away").await;
        db.database().restore_month(&archive).await.unwrap();
        compared("back").await;
        while db.database().add_tasks_to_totals(50).await.unwrap() > Some(0) {}
        compared("all added").await;
        db.database().detach_month(history.month, &archive, 1).await.unwrap();
        compared("away again").await;
    }
}

#[tokio::test]
async fn the_job_adds_all_tasks_and_reports_read_every_task_until_it_has() {
    let db = TestDatabase::new().await;
    let tenant = Tenant::new(&db, 10).await;
    history(&db, &tenant, 3_000).await;
    // As if it were many more.
    set(&db, "update org_balance set entries = entries + 1000000").await;
    let expected = told(&db).await;
    set(&db, "update org_balance set entries = entries - 1000000").await;
    db.database().add_tasks_up(Duration::from_secs(60)).await.unwrap();
    assert_eq!(one(&db, "select count(*)::text from tasks_behind()").await, "0");
    assert_eq!(told(&db).await, expected);
}
