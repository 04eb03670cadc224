//! When a budget's windows begin and end, by clocks that change, and what happens as one gives way to the next. The
//! functions of the ledger take the instant as an argument: here it is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{Postgres, Transaction};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use tokio::task::JoinSet;
use tollgate::ids::{GatewayId, HoldId};
use tollgate::store::{BudgetLevel, OrgChange, Period};

use crate::support::database::{PATIENCE, TestDatabase, ahead, until};
use crate::support::fixture::{doubt, grant, late_run, late_settle, ledger, refuse, run, settle, write_off};
use crate::support::tenant::{Tenant, make, without_autovacuum};
use BudgetLevel::{Key, Organisation, Team, User};
use Period::{Daily, Monthly, Total, Weekly};

async fn window(
    db: &TestDatabase,
    period: &str,
    zone: &str,
    at: OffsetDateTime,
) -> (OffsetDateTime, OffsetDateTime) {
    sqlx::query_as("select window_start($1, $2, $3), window_end($1, $2, $3)")
        .bind(period)
        .bind(zone)
        .bind(at)
        .fetch_one(db.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn windows_follow_the_clock_of_the_organisation() {
    let db = TestDatabase::new().await;
    for (period, zone, at, starts, hours) in [
        ("daily", "UTC", datetime!(2026-11-22 23:59:59.999 UTC), datetime!(2026-11-22 00:00 UTC), 24),
        ("daily", "UTC", datetime!(2026-11-23 00:00 UTC), datetime!(2026-11-23 00:00 UTC), 24),
        ("daily", "Europe/Berlin", datetime!(2026-11-22 23:00 UTC), datetime!(2026-11-22 23:00 UTC), 24),
        ("daily", "Europe/Berlin", datetime!(2026-03-29 12:00 UTC), datetime!(2026-03-28 23:00 UTC), 23),
        ("daily", "Europe/Berlin", datetime!(2026-10-25 12:00 UTC), datetime!(2026-10-24 22:00 UTC), 25),
        ("daily", "America/New_York", datetime!(2026-03-08 12:00 UTC), datetime!(2026-03-08 05:00 UTC), 23),
        ("daily", "America/New_York", datetime!(2026-11-01 05:30 UTC), datetime!(2026-11-01 04:00 UTC), 25),
        ("daily", "America/New_York", datetime!(2026-11-02 04:59 UTC), datetime!(2026-11-01 04:00 UTC), 25),
        // half an hour beside the others
        ("daily", "Asia/Kolkata", datetime!(2026-06-01 18:29 UTC), datetime!(2026-05-31 18:30 UTC), 24),
        ("daily", "Asia/Kolkata", datetime!(2026-06-01 18:30 UTC), datetime!(2026-06-01 18:30 UTC), 24),
        // Clocks change at midnight: a day that has no 00:00, and one that has it twice.
        ("daily", "Africa/Cairo", datetime!(2026-04-24 10:00 UTC), datetime!(2026-04-23 22:00 UTC), 23),
        ("daily", "Africa/Cairo", datetime!(2026-04-23 10:00 UTC), datetime!(2026-04-22 22:00 UTC), 24),
        ("daily", "America/Havana", datetime!(2026-11-01 04:30 UTC), datetime!(2026-11-01 04:00 UTC), 25),
        ("daily", "America/Havana", datetime!(2026-11-01 05:30 UTC), datetime!(2026-11-01 04:00 UTC), 25),
        ("daily", "America/Havana", datetime!(2026-11-01 03:30 UTC), datetime!(2026-10-31 04:00 UTC), 24),
        // Weeks begin on Monday.
        ("weekly", "UTC", datetime!(2026-11-22 23:59 UTC), datetime!(2026-11-16 00:00 UTC), 168),
        ("weekly", "UTC", datetime!(2026-11-23 00:00 UTC), datetime!(2026-11-23 00:00 UTC), 168),
        ("weekly", "Europe/Berlin", datetime!(2026-03-29 21:59 UTC), datetime!(2026-03-22 23:00 UTC), 167),
        ("weekly", "Europe/Berlin", datetime!(2026-10-25 12:00 UTC), datetime!(2026-10-18 22:00 UTC), 169),
        ("monthly", "UTC", datetime!(2024-02-29 23:59 UTC), datetime!(2024-02-01 00:00 UTC), 29 * 24),
        ("monthly", "UTC", datetime!(2026-02-28 23:59 UTC), datetime!(2026-02-01 00:00 UTC), 28 * 24),
        (
            "monthly",
            "America/New_York",
            datetime!(2027-01-01 04:59 UTC),
            datetime!(2026-12-01 05:00 UTC),
            31 * 24,
        ),
        (
            "monthly",
            "Europe/Berlin",
            datetime!(2026-03-31 21:59 UTC),
            datetime!(2026-02-28 23:00 UTC),
            31 * 24 - 1,
        ),
        (
            "monthly",
            "Europe/Berlin",
            datetime!(2026-03-31 22:00 UTC),
            datetime!(2026-03-31 22:00 UTC),
            30 * 24,
        ),
    ] {
        let expected = (starts, starts + Duration::hours(hours));
        assert_eq!(window(&db, period, zone, at).await, expected, "{period} {zone} {at}");
    }
}

/// Each half hour of a year lies in the window it is said to lie in, and these follow on one another.
#[tokio::test]
async fn no_instant_is_between_two_windows_or_in_both() {
    let db = TestDatabase::new().await;
    let gaps: Vec<(String, String, OffsetDateTime)> = sqlx::query_as(
        "with w as materialized (select z, p, t, window_start(p, z, t) as s, window_end(p, z, t) as e \
           from unnest(array['Europe/Berlin', 'Africa/Cairo', 'America/Havana', 'Atlantic/Azores', 'Australia/Lord_Howe']) z, \
             unnest(array['daily']) p, \
             generate_series(timestamptz '2026-01-01 00:00Z', '2026-12-31 23:45Z', '30 min') t), \
           found as materialized (select z, p, s, e, min(t) as t from w group by z, p, s, e) \
         select z, p, t from w where not (s <= t and t < e) \
         union all select z, p, t from found where window_start(p, z, s) <> s or window_start(p, z, e) <> e \
           or window_end(p, z, e - interval '1 second') <> e limit 10",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(gaps, []);
}

/// Asks for one hold of a hundred credits as a lane does, at that instant; whether it was granted.
async fn reserve_at(db: &TestDatabase, tenant: &Tenant, at: impl Into<Option<OffsetDateTime>>) -> bool {
    let verdicts: Vec<String> = sqlx::query_scalar(
        "select verdict from reserve_batch(array[$1], array[1], array[$2], array[$3], array[$4], array[100], array[100], \
           array[10000], array[1], array['t'], array['b'], array['a'], array['\\x07'::bytea], array[null], array[false], \
           array[false], $5, 0, 30000, false, $6)",
    )
    .bind(tenant.org.as_uuid())
    .bind(HoldId::generate().as_uuid())
    .bind(tenant.user.as_uuid())
    .bind(tenant.key.as_uuid())
    .bind(GatewayId::generate().as_uuid())
    .bind(at.into())
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert!(["granted", "over_budget"].contains(&&*verdicts[0]), "{verdicts:?}");
    verdicts[0] == "granted"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_window_admits_what_fits_while_one_gives_way_to_the_next_under_load() {
    let db = Arc::new(TestDatabase::new().await);
    let tenant = Arc::new(Tenant::new(&db, 1_000_000).await);
    let zone = OrgChange { time_zone: Some("Europe/Berlin".into()), ..OrgChange::default() };
    db.database().update_org(tenant.org, zone, None).await.unwrap();
    tenant.budget(&db, Key, Daily, 700).await;
    tenant.budget(&db, User, Weekly, 1500).await;
    // Four days of March, each for 40 callers at once; the clocks change in the night to Sunday.
    let begins = datetime!(2026-03-26 23:00 UTC);
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..4 {
        let (db, tenant, next) = (db.clone(), tenant.clone(), next.clone());
        callers.spawn(async move {
            let mut granted = Vec::new();
            loop {
                let step = next.fetch_add(1, Ordering::Relaxed);
                if step >= 160 {
                    return granted;
                }
                let at = begins + Duration::minutes(95 * 60 / 160 * i64::try_from(step).unwrap());
                if reserve_at(&db, &tenant, at).await {
                    granted.push(at);
                }
            }
        });
    }
    let granted = callers.join_all().await.concat();
    let within = |from: OffsetDateTime, to| granted.iter().filter(|at| (from..to).contains(*at)).count();
    let days = [
        begins,
        datetime!(2026-03-27 23:00 UTC),
        datetime!(2026-03-28 23:00 UTC),
        datetime!(2026-03-29 22:00 UTC),
        datetime!(2026-03-30 22:00 UTC),
    ];
    // The week ends with Sunday: of its fifteen hundred one hundred is left for that day.
    let counts: Vec<usize> = days.windows(2).map(|day| within(day[0], day[1])).collect();
    assert_eq!(counts, [7, 7, 1, 7]);
    let windows: Vec<(i64, i64)> =
        sqlx::query_as("select held, used from budget_window where period = 'daily' order by starts_at")
            .fetch_all(db.pool())
            .await
            .unwrap();
    assert_eq!(windows, [(700, 0), (700, 0), (100, 0), (700, 0)]);
}

#[tokio::test]
async fn another_clock_opens_other_windows_with_what_was_spent_in_them() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1_000_000).await);
    tenant.budget(&db, Key, Daily, 1000).await;
    std::mem::forget(grant(&ledger, tenant.hold(100)).await);
    for zone in ["Pacific/Kiritimati", "Pacific/Pago_Pago", "Europe/Berlin"] {
        let change = OrgChange { time_zone: Some(zone.into()), ..OrgChange::default() };
        db.database().update_org(tenant.org, change, None).await.unwrap();
        let drawn = db.database().budgets_of_caller(tenant.org, tenant.user, Some(tenant.key)).await.unwrap();
        assert_eq!((drawn[0].held.get(), drawn[0].used.get()), (100, 0), "{zone}");
    }
    std::mem::forget(grant(&ledger, tenant.hold(900)).await);
    assert!(!reserve_at(&db, &tenant, OffsetDateTime::now_utc()).await);
}

/// Takes the organisation's row.
async fn rival(db: &TestDatabase, tenant: &Tenant) -> Transaction<'static, Postgres> {
    let mut rival = db.pool().begin().await.unwrap();
    sqlx::query("select from org_balance where org_id = $1 for update")
        .bind(tenant.org.as_uuid())
        .execute(&mut *rival)
        .await
        .unwrap();
    rival
}

/// Lets the row go when somebody waits for it and `then` is over; when that was.
async fn make_wait(
    db: &TestDatabase,
    mut rival: Transaction<'static, Postgres>,
    then: OffsetDateTime,
) -> OffsetDateTime {
    let waits = "select exists (select from pg_stat_activity where datname = current_database() \
                 and wait_event_type = 'Lock') and clock_timestamp() > $1";
    until("it waits for the row", async || {
        sqlx::query_scalar(waits).bind(then).fetch_one(db.pool()).await.unwrap()
    })
    .await;
    let over = sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *rival).await.unwrap();
    rival.commit().await.unwrap();
    over
}

/// A reader that goes forward by time would miss what is older than what it has read.
#[tokio::test]
async fn what_waits_for_its_organisation_is_dated_and_counted_when_its_turn_comes() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1_000_000).await);
    let mut guard = grant(&ledger, tenant.hold(100)).await;
    guard.step(run(guard.id())).await.unwrap();
    let now = OffsetDateTime::now_utc();
    let rows = rival(&db, &tenant).await;
    let (settled, over) = tokio::join!(guard.step(settle(90)), make_wait(&db, rows, now));
    settled.unwrap();
    let dated: OffsetDateTime = sqlx::query_scalar("select created_at from entry where kind = 'consume'")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert!(dated >= over, "{dated} {over}");

    tenant.budget(&db, Key, Daily, 1000).await;
    // By a clock whose day ends in a moment.
    let midnight = ahead(async |midnight| {
        let (hours, minutes, seconds) = midnight.to_hms();
        let zone = format!("<here>+{hours:02}:{minutes:02}:{seconds:02}");
        let clock = "update org set time_zone = $2 where org_id = $1 \
                     returning window_end('daily', time_zone, clock_timestamp())";
        let midnight: OffsetDateTime = sqlx::query_scalar(clock)
            .bind(tenant.org.as_uuid())
            .bind(zone)
            .fetch_one(db.pool())
            .await
            .unwrap();
        (midnight - OffsetDateTime::now_utc() < Duration::hours(1)).then_some(midnight)
    })
    .await;
    db.database().count_budgets(PATIENCE).await.unwrap();
    let rows = rival(&db, &tenant).await;
    let (granted, over) = tokio::join!(reserve_at(&db, &tenant, None), make_wait(&db, rows, midnight));
    assert!(granted);
    let (dated, starts): (OffsetDateTime, OffsetDateTime) = sqlx::query_as(
        "select h.created_at, w.starts_at from task h join budget_window w on w.window_id = any (h.windows) \
         where h.state = 'HELD'",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert!(dated >= over, "{dated} {over}");
    assert_eq!(starts, midnight);
}

/// The work must grow with the tasks, not with the tasks times the subjects.
#[tokio::test]
async fn what_many_subjects_have_spent_is_counted_in_one_look() {
    let mut db = TestDatabase::new().await;
    // Tasks from nowhere; and a planner that knows nothing of them.
    db.expect_broken();
    let tenant = Tenant::new(&db, 0).await;
    without_autovacuum(&db).await;
    sqlx::query(
        "with made as (insert into hold (org_id, hold_id, user_id, key_id, state, amount, list_price, factor_bp, price_book, \
           balance_after, overdraft, task_type, backend, account, owner, fingerprint, created_at, upstream_task, charged, \
           ended_at) \
         select $1, uuid_v7(now()), $1, md5((i % 300)::text)::uuid, case when e then 'SETTLED' end, 100, 100, \
           10000, 1, 0, 0, 't', 'b', 'a', $1, '', now(), case when e then i::text end, case when e then 90 end, \
           case when e then now() end \
         from generate_series(0, 2999) i, lateral (select i / 300 % 2 = 0) s(e) returning *), \
         open as (insert into open_task (org_id, hold_id, state, backend, account, owner, upstream_task, due_at) \
         select org_id, hold_id, 'RUNNING', 'b', 'a', org_id, hold_id::text, now() from made where state is null) \
         insert into entry (org_id, entry_id, kind, amount, hold_id, user_id, key_id, task_type, created_at) \
         select org_id, hold_id, 'consume', -charged, hold_id, user_id, key_id, task_type, ended_at from made \
         where state = 'SETTLED'",
    )
    .bind(tenant.org.as_uuid())
    .execute(db.pool())
    .await
    .unwrap();
    let mut change = db.pool().begin().await.unwrap();
    sqlx::query(
        "insert into budget (budget_id, org_id, level, period, credits) values ($1, $1, 'key', 'monthly', 5000)",
    )
    .bind(tenant.org.as_uuid())
    .execute(&mut *change)
    .await
    .unwrap();
    let advance = "select advance_count(org_id, budget_id, 2000, 2000) from budget_count";
    while sqlx::query(advance).fetch_optional(&mut *change).await.unwrap().is_some() {}
    let read: i64 = sqlx::query_scalar(
        "select sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid))::bigint from pg_class \
         where relname ~ '^(hold|entry|budget_window)'",
    )
    .fetch_one(&mut *change)
    .await
    .unwrap();
    change.commit().await.unwrap();
    assert!(read < 30 * 3000, "{read} rows read for 3000 tasks");
    let windows: Vec<(i64, i64, i64, i64)> = sqlx::query_as(
        "select count(*), w.held, w.used, w.opening from budget_window w \
         where (select count(*) from task h where w.window_id = any (h.windows)) = 5 group by 2, 3, 4",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(windows, [(300, 500, 450, 450)]);
}

const COUNTED: &str = "a window of a budget counts the tasks that list it";
const MISSED: &str = "an open window of a budget in force misses no task";
const OWN: &str = "a task is counted in windows of its own organisation, team, user and key, and of its time";
const DRAWN: &str = "a task that drew on budgets is counted in their windows";
const HOLD: &str = "a hold is as it was made, in price, factor, account and windows";
const BELOW: &str = "no admission took a budget below zero";
const FLAGS: &str = "an organisation knows whether there are budgets and teams to look for";

#[tokio::test]
async fn each_breach_of_a_budget_is_found_by_name() {
    let original = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&original).await, Tenant::new(&original, 1_000_000).await);
    let mut before = grant(&ledger, tenant.hold(100)).await;
    before.step(run(before.id())).await.unwrap();
    before.step(settle(90)).await.unwrap();
    for (level, period) in [(Key, Daily), (User, Total), (Team, Weekly), (Organisation, Monthly)] {
        tenant.budget(&original, level, period, 10_000).await;
    }
    make(&original, None, Key, None, Total, None).await.unwrap();
    for steps in [
        vec![],
        vec![refuse()],
        vec![run(HoldId::generate()), settle(120)],
        vec![doubt(), write_off(100), late_run(), late_settle(80)],
    ] {
        let mut guard = grant(&ledger, tenant.hold(100)).await;
        for step in steps {
            guard.step(step).await.unwrap();
        }
        std::mem::forget(guard);
    }
    ledger.shut_down().await;
    assert_eq!(original.database().audit().await.unwrap().breaches, []);
    for (statement, expected) in [
        ("update budget_window set held = held + 1 where level = 'key'", &[COUNTED][..]),
        ("update budget_window set used = used - 1 where level = 'org'", &[COUNTED]),
        ("update budget_window set opening = opening + 1 where level = 'team'", &[COUNTED, MISSED]),
        ("delete from budget_window where level = 'user'", &[MISSED, OWN]),
        ("update hold set windows = null where state is null", &[COUNTED, MISSED, DRAWN, HOLD]),
        // Out of windows that nobody has a budget for any more, which count nothing then.
        (
            "update hold set windows = null; update budget_window set held = 0, used = 0, opening = 0; delete from budget; \
             update org_balance set budgets = 0",
            &[DRAWN, HOLD],
        ),
        // Into a window that had ended, and out of all that counted it, with what they count.
        (
            "with past as (insert into budget_window (org_id, level, subject_id, period, starts_at, held) \
               select org_id, level, subject_id, period, starts_at - interval '2 days', 100 from budget_window \
               where period = 'daily' limit 1 returning window_id) \
             update hold set windows = windows || past.window_id from past where state is null",
            &[OWN, HOLD],
        ),
        (
            "update budget_window set used = used - 120 where window_id in (select unnest(windows) from hold where charged = 120); \
             update hold set windows = null, budget_after = null where charged = 120",
            &[MISSED, HOLD],
        ),
        ("update budget_window set used = used + 1, opening = opening + 1 where level = 'team'", &[MISSED]),
        ("update hold set windows = windows || windows where state is null", &[COUNTED, HOLD]),
        ("update hold set key_id = gen_random_uuid() where state is null", &[MISSED, OWN, HOLD]),
        ("update hold set team_id = null where state is null", &[OWN, HOLD]),
        ("update hold set created_at = created_at - interval '40 days' where state is null", &[OWN]),
        ("update budget_window set org_id = gen_random_uuid() where level = 'key'", &[COUNTED, MISSED, OWN]),
        ("update hold set budget_after = -1 where state is null", &[BELOW, HOLD]),
        ("delete from budget", &[FLAGS]),
        ("update org_balance set budgets = 0", &[FLAGS]),
        ("update org_balance set teams = false", &[FLAGS]),
    ] {
        let mut db = original.copy().await;
        db.expect_broken();
        let sql = format!("begin; set local session_replication_role = replica; {statement}; commit");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
        let report = db.database().audit().await.unwrap();
        let mut found: Vec<_> = report.breaches.iter().map(|finding| finding.check).collect();
        found.dedup();
        assert_eq!(found, expected, "{statement}");
    }
}
