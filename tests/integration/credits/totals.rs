//! Sums of entries: statements and usage say the same with them and without them, wherever the sums have got to.

use std::time::Duration as Time;

use futures_util::future::join_all;
use time::macros::{date, datetime};
use time::{Date, Duration};
use tollgate::clock::Clock;
use tollgate::credits::Credits;
use tollgate::ids::{KeyId, OrgId, UserId};
use tollgate::store::{
    CreditSummary, EntryKind, Ledger, Line, NewHold, OrgChange, Statement, Usage, UsageBy, UsageFilter,
};

use crate::credits::expiry::{reserve, step};
use crate::support::aged::by_hand;
use crate::support::database::TestDatabase;
use crate::support::fixture::{
    credits, doubt, funded, grant, late_run, late_settle, ledger, new_hold, run, settle, write_off,
};
use crate::support::seed::TOP_UP;
use crate::support::tenant::{Tenant, history};

const TYPES: [&str; 2] = ["pro-text-to-video", "o3-std-video-edit"];

fn filter(org: OrgId) -> UsageFilter {
    UsageFilter {
        org: Some(org),
        from: date!(2026 - 01 - 01),
        to: date!(2999 - 12 - 31),
        team: None,
        user: None,
        key: None,
        task_type: None,
        label: None,
    }
}

fn this_month() -> String {
    let today = Clock.wall().date();
    format!("{:04}-{:02}", today.year(), u8::from(today.month()))
}

/// The first and the last day of a statement.
fn statement_days(statement: &Statement) -> (Date, Date) {
    let first = statement.month.first_day();
    (first, first.replace_day(first.month().length(first.year())).unwrap())
}

/// All that is told of an organisation.
#[derive(Debug)]
struct Told {
    usage: Vec<Vec<Usage>>,
    top: Vec<Vec<Usage>>,
    statements: Vec<(Statement, Vec<Line>)>,
    summary: CreditSummary,
}

impl Told {
    async fn of(db: &TestDatabase, org: OrgId) -> Self {
        let database = db.database();
        let (mut usage, mut top, mut statements) = (Vec::new(), Vec::new(), Vec::new());
        for set in 0..1 << 6 {
            let by: Vec<_> = (0..6).filter(|n| set >> n & 1 == 1).map(|n| UsageBy::ALL[n]).collect();
            usage.push(database.usage(&filter(org), &by, 1000, 0).await.unwrap());
        }
        let days = UsageFilter { from: date!(2026 - 03 - 01), to: date!(2026 - 03 - 31), ..filter(org) };
        let typed = UsageFilter { task_type: Some(TYPES[0].into()), ..filter(org) };
        for filter in [filter(org), days, typed] {
            usage.push(database.usage(&filter, &[UsageBy::Day], 1000, 0).await.unwrap());
            for by in [UsageBy::User, UsageBy::Key, UsageBy::Day, UsageBy::TaskType] {
                top.push(database.top_usage(&filter, by, 2).await.unwrap());
            }
        }
        let this = this_month();
        for month in ["2026-02", "2026-03", "2026-04", &*this] {
            let statement = database.statement(org, month.parse().unwrap()).await.unwrap();
            let mut lines: Vec<Line> = Vec::new();
            loop {
                // Each page is counted back from now.
                let after = lines.last().map(|line| line.entry.place());
                let more = database.statement_lines(&statement, after, None, 5).await.unwrap();
                if more.is_empty() {
                    break;
                }
                lines.extend(more);
            }
            // Usage by the same clock adds up to it.
            let zone_days = statement_days(&statement);
            let days = database.usage_by_local_day(org, zone_days.0, zone_days.1, 100, 0).await.unwrap();
            let consumed: i64 = days.iter().map(|day| day.consumed.get()).sum();
            let charges = statement
                .totals
                .iter()
                .filter(|total| matches!(total.kind, EntryKind::Consume | EntryKind::Correct));
            assert_eq!(consumed, -charges.map(|total| total.credits.get()).sum::<i64>());
            usage.push(days);
            statements.push((statement, lines));
        }
        let summary = database.credit_summary(org, Credits::ZERO).await.unwrap();
        Self { usage, top, statements, summary }
    }

    /// Without what depends on when it was asked for.
    fn text(&self) -> String {
        let Self { usage, top, statements, summary } = self;
        let runway = summary.runway.per_day;
        format!("{usage:#?} {top:#?} {statements:#?} {runway:?} {:?}", summary.balance)
    }
}

async fn set(db: &TestDatabase, sql: &'static str) {
    sqlx::raw_sql(sql).execute(db.pool()).await.unwrap();
}

/// Tasks about the ends of months, by whatever clock, on each quarter of an hour and beside it.
async fn about_months(db: &TestDatabase, org: OrgId) {
    let mut charge = 1;
    for end in [datetime!(2026-03-01 00:00 UTC), datetime!(2026-04-01 00:00 UTC)] {
        for quarter in [-50, -49, -24, -23, -22, -1, 0, 1, 40] {
            let at = end + Duration::minutes(15 * quarter);
            for at in [at - Duration::MICROSECOND, at, at + Duration::minutes(7)] {
                let hold = reserve(db.pool(), org, 1_000, at).await.unwrap();
                step(db.pool(), org, hold, "run", None, at).await;
                step(db.pool(), org, hold, "settle", Some(charge), at).await;
                charge += 1;
            }
        }
    }
}

/// Tasks of some users and keys, of which some are corrected, and grants between them.
async fn of_many(db: &TestDatabase, ledger: &Ledger, org: OrgId, tasks: usize) {
    let users = [UserId::generate(), UserId::generate(), UserId::generate()];
    let keys = [KeyId::generate(), KeyId::generate(), KeyId::generate(), KeyId::generate()];
    for n in 0..tasks {
        let new = NewHold {
            user: users[n % 3],
            key: (n % 5 < 4).then(|| keys[n % 4]),
            task_type: TYPES[n % 2].into(),
            ..new_hold(org, 100)
        };
        let mut guard = grant(ledger, new).await;
        if n % 7 == 6 {
            for step in [doubt(), write_off(100), late_run(), late_settle(70)] {
                guard.step(step).await.unwrap();
            }
            db.database().grant(org, credits(5), None, TOP_UP, None).await.unwrap();
        } else {
            guard.step(run(guard.id())).await.unwrap();
            guard.step(settle(10 + i64::try_from(n).unwrap())).await.unwrap();
        }
    }
}

#[tokio::test]
async fn sums_of_entries_change_no_figure_wherever_they_have_got_to() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    // Five hours and three quarters before UTC.
    let zone = OrgChange { time_zone: Some("Asia/Kathmandu".into()), ..OrgChange::default() };
    let org = funded(&db, 1_000_000).await;
    db.database().update_org(org, zone, None).await.unwrap();
    about_months(&db, org).await;
    of_many(&db, &ledger, org, 15).await;
    // Made from all that there was, and then entry by entry.
    set(&db, "insert into total_place (org_id) select org_id from org").await;
    assert!(db.database().add_to_totals(org.as_uuid(), 10).await.unwrap() > Some(0));
    of_many(&db, &ledger, org, 20).await;
    ledger.shut_down().await;

    let (plain, summed) = (db.copy().await, db.copy().await);
    set(
        &plain,
        "delete from total_place; delete from entry_total; delete from usage_total; delete from usage_member",
    )
    .await;
    let expected = Told::of(&plain, org).await.text();
    let mut added = Vec::new();
    loop {
        assert_eq!(Told::of(&summed, org).await.text(), expected, "after {added:?}");
        assert_eq!(summed.database().audit().await.unwrap().breaches, []);
        match summed.database().add_to_totals(org.as_uuid(), 9).await.unwrap() {
            Some(0) => break,
            more => added.push(more.unwrap()),
        }
    }
    assert!(added.len() > 2 && added.iter().all(|more| *more <= 9), "{added:?}");
}

#[tokio::test]
async fn entries_that_left_before_they_were_added_have_the_sums_made_anew() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let org = funded(&db, 1_000_000).await;
    of_many(&db, &ledger, org, 9).await;
    ledger.shut_down().await;
    let expected = Told::of(&db, org).await.text();
    // As if sums had been begun before the entries, of which some have left since.
    let mut broken = db.copy().await;
    broken.expect_broken();
    set(
        &broken,
        "insert into total_place (org_id, place) select org_id, 1 from org; \
         insert into usage_total select org_id, '2026-01-01', org_id, 't', 1, 1, 1 from org",
    )
    .await;
    by_hand(&broken, "update entry set place = null where place in (3, 4)").await;
    assert!(broken.database().add_to_totals(org.as_uuid(), 5).await.unwrap() > Some(5));
    assert_eq!(Told::of(&broken, org).await.text(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_gateways_add_each_entry_once() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let orgs = [funded(&db, 1 << 30).await, funded(&db, 1 << 30).await];
    set(&db, "insert into total_place (org_id) select org_id from org").await;
    let spending = async {
        for n in 0..3 {
            for org in orgs {
                of_many(&db, &ledger, org, 20 + n).await;
            }
        }
    };
    let adding = join_all((0..6).map(async |n| {
        for _ in 0..40 {
            for org in orgs {
                db.database().add_to_totals(org.as_uuid(), 3 + n).await.unwrap();
            }
        }
    }));
    tokio::join!(spending, adding);
    ledger.shut_down().await;
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
    for org in orgs {
        while db.database().add_to_totals(org.as_uuid(), 50).await.unwrap() > Some(0) {}
    }
    let missing: i64 = sqlx::query_scalar(
        "select coalesce(sum(entries), 0)::bigint - (select sum(lines)::bigint from entry_total) from org_balance",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(missing, 0);
}

/// The time after which a run of the job gives up; it ends long before.
const WITHIN: Time = Time::from_secs(60);

#[tokio::test]
async fn the_job_looks_after_organisations_with_many_entries_alone() {
    let db = TestDatabase::new().await;
    let many = Tenant::new(&db, 10).await;
    history(&db, &many, 2_100).await;
    let few = funded(&db, 10).await;
    db.database().add_up(WITHIN).await.unwrap();
    let of = async |org: OrgId| {
        let place: Option<Option<i64>> =
            sqlx::query_scalar("select place from total_place where org_id = $1")
                .bind(org.as_uuid())
                .fetch_optional(db.pool())
                .await
                .unwrap();
        place.flatten()
    };
    let reached: i64 = of(many.org).await.unwrap();
    assert!(reached > 2_100 && of(few).await.is_none());
    // Few more are left to those who read; of many more all are added.
    history(&db, &many, 100).await;
    db.database().add_up(WITHIN).await.unwrap();
    assert_eq!(of(many.org).await, Some(reached));
    history(&db, &many, 2_000).await;
    db.database().add_up(WITHIN).await.unwrap();
    assert_eq!(of(many.org).await, Some(reached + 2_102));
    let told = async |db: &TestDatabase| {
        let database = db.database();
        let today = Clock.wall().date();
        let month = UsageFilter { from: today.replace_day(1).unwrap(), ..filter(many.org) };
        let top = database.top_usage(&month, UsageBy::Key, 5).await.unwrap();
        let by_type =
            database.usage(&filter(many.org), &[UsageBy::Day, UsageBy::TaskType], 9, 0).await.unwrap();
        let statement = database.statement(many.org, this_month().parse().unwrap()).await.unwrap();
        let runway = database.credit_summary(many.org, Credits::ZERO).await.unwrap().runway.per_day;
        (
            by_type.iter().map(|line| line.tasks).sum::<i64>(),
            format!("{top:?} {by_type:?} {statement:?} {runway}"),
        )
    };
    let before = told(&db).await;
    assert_eq!(before.0, 4_200);
    // Of what is in the sums, nothing else is read any more.
    let mut broken = db.copy().await;
    broken.expect_broken();
    by_hand(
        &broken,
        "delete from usage_day; update entry set amount = amount - 1 \
                      where place <= (select place from total_place where org_id = entry.org_id)",
    )
    .await;
    assert_eq!(told(&broken).await, before);
}
