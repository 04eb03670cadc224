//! Statements: opening + lines = closing = the sum of all entries up to then = what the organisation has.

use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use tollgate::clock::Clock;
use tollgate::ids::OrgId;
use tollgate::store::{Entry, Line, Month, Statement, StoreError, Why};

use crate::support::database::TestDatabase;
use crate::support::fixture::{credits, funded, grant, ledger, money, new_hold, run, settle};

const WHY: Why<'static> = Why { reason: "r", external_ref: None };

fn this_month() -> Month {
    let today = Clock.wall().date();
    format!("{:04}-{:02}", today.year(), u8::from(today.month())).parse().unwrap()
}

/// All its lines, page by page; each page is counted back from now.
async fn lines(db: &TestDatabase, of: &Statement, page: u32) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    loop {
        let after = lines.last().map(|line| line.entry.place());
        let more = db.database().statement_lines(of, after, None, page).await.unwrap();
        if more.is_empty() {
            return lines;
        }
        lines.extend(more);
    }
}

/// Opening, each balance, totals and closing go together.
fn add_up(of: &Statement, lines: &[Line]) {
    let mut balance = of.opening.get();
    for line in lines {
        balance += line.entry.credits.get();
        assert_eq!(line.balance.get(), balance, "{line:?}");
    }
    assert_eq!(of.closing.get(), balance);
    assert_eq!(of.lines, i64::try_from(lines.len()).unwrap());
    for total in &of.totals {
        let entries: Vec<&Entry> =
            lines.iter().map(|line| &line.entry).filter(|entry| entry.kind == total.kind).collect();
        assert_eq!(total.lines, i64::try_from(entries.len()).unwrap());
        assert_eq!(total.credits.get(), entries.iter().map(|entry| entry.credits.get()).sum::<i64>());
    }
    assert_eq!(of.totals.iter().map(|total| total.lines).sum::<i64>(), of.lines);
}

/// All entries of `org` before `end`, by a sum of its own.
async fn sum_before(db: &TestDatabase, org: OrgId, end: OffsetDateTime) -> i64 {
    sqlx::query_scalar(
        "select coalesce(sum(amount), 0)::bigint from entry where org_id = $1 and created_at < $2",
    )
    .bind(org.as_uuid())
    .bind(end)
    .fetch_one(db.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn what_is_added_while_the_lines_are_read_is_none_of_them() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 100).await;
    db.database().adjust(org, credits(-3), WHY, None).await.unwrap();
    let statement = db.database().statement(org, this_month()).await.unwrap();
    db.database().adjust(org, credits(-5), WHY, None).await.unwrap();
    let lines = lines(&db, &statement, 1).await;
    add_up(&statement, &lines);
    assert_eq!((statement.closing, lines.len()), (credits(97), 2));
}

#[tokio::test]
async fn the_current_month_adds_up_to_the_balance_while_tasks_are_open() {
    let db = TestDatabase::new().await;
    let (ledger, org, other) = (ledger(&db).await, funded(&db, 1000).await, funded(&db, 0).await);
    let _open = grant(&ledger, new_hold(org, 150)).await;
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    guard.step(run(guard.id())).await.unwrap();
    guard.step(settle(90)).await.unwrap();
    db.database().transfer(org, other, credits(60), WHY, None).await.unwrap();
    db.database()
        .adjust(org, credits(5), Why { reason: "sorry", external_ref: Some("c-7") }, None)
        .await
        .unwrap();

    let statement = db.database().statement(org, this_month()).await.unwrap();
    assert_eq!((statement.opening.get(), statement.closing.get()), (0, 855));
    assert_eq!((statement.available, statement.held), (Some(credits(705)), Some(credits(150))));
    let lines = lines(&db, &statement, 3).await;
    add_up(&statement, &lines);
    let found: Vec<_> = lines.iter().map(|line| (line.entry.kind.as_str(), line.balance.get())).collect();
    assert_eq!(found, [("grant", 1000), ("consume", 910), ("transfer", 850), ("adjust", 855)]);
    assert_eq!(lines[1].entry.hold_id, Some(guard.id()));
    assert_eq!(lines[3].entry.external_ref.as_deref(), Some("c-7"));
}

#[tokio::test]
async fn a_month_begins_and_ends_by_the_clock_of_the_organisation() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 0).await;
    sqlx::raw_sql("update org set time_zone = 'America/New_York'").execute(db.pool()).await.unwrap();
    // The clocks there go forward on 8 March.
    let [starts, ends] = [datetime!(2026-03-01 05:00 UTC), datetime!(2026-04-01 04:00 UTC)];
    for (n, at) in
        [starts - Duration::MICROSECOND, starts, ends - Duration::MICROSECOND, ends].into_iter().enumerate()
    {
        sqlx::query(
            "select post_entry($1, gen_random_uuid(), 'adjust', $2, 'r', null, null, null, 'test', $3)",
        )
        .bind(org.as_uuid())
        .bind(10i64.pow(u32::try_from(n).unwrap()))
        .bind(at)
        .execute(db.pool())
        .await
        .unwrap();
    }
    let statement = db.database().statement(org, "2026-03".parse().unwrap()).await.unwrap();
    assert_eq!((statement.starts_at, statement.ends_at), (starts, ends));
    assert_eq!((statement.opening.get(), statement.closing.get(), statement.lines), (1, 111, 2));
    assert_eq!((statement.available, statement.held), (None, None), "it is over");
    add_up(&statement, &lines(&db, &statement, 1).await);
    let next = db.database().statement(org, "2026-04".parse().unwrap()).await.unwrap();
    assert_eq!((next.opening, next.closing.get()), (statement.closing, 1111));
    let empty = db.database().statement(org, "2020-02".parse().unwrap()).await.unwrap();
    assert_eq!((empty.opening.get(), empty.closing.get(), empty.lines), (0, 0, 0));
}

#[tokio::test]
async fn a_month_that_is_none_or_has_not_begun_is_refused() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 0).await;
    for text in [
        "",
        "2026",
        "2026-13",
        "2026-00",
        "26-01",
        "2026-1",
        "0000-01",
        "2026-+1",
        "2026-01-01",
        "２０２６-01",
    ] {
        assert!(matches!(text.parse::<Month>(), Err(StoreError::Invalid(_))), "{text}");
    }
    assert_eq!("2026-01".parse::<Month>().unwrap().to_string(), "2026-01");
    for (org, month) in [(org, "9999-12"), (OrgId::generate(), "2026-01")] {
        let refused = db.database().statement(org, month.parse().unwrap()).await;
        assert!(matches!(refused, Err(StoreError::NotFound(_))), "{refused:?}");
    }
}

/// A month of tasks as the ledger's own functions write it, 600 to a call; then what operators do, in between.
const MONTH: &str = r"
do $$
declare
    v_org uuid := '%ORG%';
    v_start timestamptz := '2026-02-26 12:00+00';
    v_holds uuid[]; v_amounts bigint[]; v_charges bigint[]; v_kinds text[]; v_at timestamptz;
    n integer; v_i integer[]; v_one integer[];
begin
    for n in 1..200 loop
        -- 200 times 600 tasks over 36 days: some before March, some after it
        v_at := v_start + n * interval '258 minutes';
        select array_agg(gen_random_uuid()), array_agg((10 + random() * 990)::bigint), array_agg(1)
        into v_holds, v_amounts, v_one from generate_series(1, 600);
        select array_agg(case when random() < 0.15 then 'fail' else 'settle' end) into v_kinds from generate_series(1, 600);
        select array_agg(case when k = 'settle' then (a * (0.5 + random() * 0.55))::bigint end order by ord)
        into v_charges from unnest(v_kinds, v_amounts) with ordinality t(k, a, ord);
        if n % 17 = 1 then
            perform post_entry(v_org, gen_random_uuid(), 'grant', 6000000, 'top-up', 'inv-' || n, v_at + interval '9 days', null, 'test', v_at);
        end if;
        if n % 23 = 0 then
            perform post_entry(v_org, gen_random_uuid(), 'adjust', (random() * 2000 - 1000)::bigint, 'correction', null, null, null, 'test', v_at);
        end if;
        perform reserve_batch(array[v_org], v_one, v_holds, array_fill(v_org, array[600]), array_fill(null::uuid, array[600]),
            v_amounts, v_amounts, array_fill(10000, array[600]), v_one, array_fill('pro-text-to-video'::text, array[600]),
            array_fill('kling-3.0'::text, array[600]), array_fill('main'::text, array[600]),
            array_fill('\x00'::bytea, array[600]), array_fill(null::text, array[600]), array_fill(false, array[600]),
            array_fill(false, array[600]), v_org, 0, 60000, false, v_at);
        perform transition_batch(array[v_org], v_one, v_holds, array_fill('run'::text, array[600]), v_holds::text[],
            array_fill(null::bigint, array[600]), array_fill(null::bigint, array[600]), array_fill(null::bigint, array[600]),
            array_fill(0::bigint, array[600]), array_fill(false, array[600]), array_fill(null::text, array[600]),
            array_fill(null::text, array[600]), array_fill(null::text, array[600]), array_fill(60000::bigint, array[600]), v_at);
        perform transition_batch(array[v_org], v_one, v_holds, v_kinds, v_holds::text[],
            v_charges, v_charges, v_charges,
            array_fill(0::bigint, array[600]), array_fill(false, array[600]), array_fill(null::text, array[600]),
            array_fill(null::text, array[600]), array_fill(null::text, array[600]), array_fill(60000::bigint, array[600]), v_at);
        -- or the functions would go on with what they planned for empty tables
        commit;
        if n in (2, 10, 50) then analyze; end if;
        if n % 7 = 0 then
            while (select more from expire_credits(v_org, 5000, 'test', v_at)) loop end loop;
        end if;
    end loop;
end $$";

#[tokio::test]
async fn a_month_of_a_hundred_thousand_tasks_is_the_ledger_is_the_balance() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 0).await;
    sqlx::raw_sql("update org set time_zone = 'Asia/Kolkata'").execute(db.pool()).await.unwrap();
    let sql = MONTH.replace("%ORG%", &org.as_uuid().to_string());
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
    let in_march =
        "select count(*) from task where to_char(created_at at time zone 'Asia/Kolkata', 'MM') = '03'";
    let tasks: i64 = sqlx::query_scalar(in_march).fetch_one(db.pool()).await.unwrap();
    assert!(tasks > 100_000, "{tasks}");

    let mut closing = credits(0);
    let mut entries = 0;
    for month in ["2026-02", "2026-03", "2026-04"] {
        let statement = db.database().statement(org, month.parse().unwrap()).await.unwrap();
        assert_eq!(statement.opening, closing);
        assert_eq!(statement.closing.get(), sum_before(&db, org, statement.ends_at).await);
        let lines = lines(&db, &statement, 5000).await;
        add_up(&statement, &lines);
        (closing, entries) = (statement.closing, entries + statement.lines);
        if month == "2026-03" {
            let kinds: Vec<_> = statement.totals.iter().map(|total| total.kind.as_str()).collect();
            assert_eq!(kinds, ["adjust", "consume", "expire", "grant"]);
            assert!(statement.lines > 80_000, "{}", statement.lines);
        }
    }
    let [available, held, _] = money(db.database(), org).await;
    assert_eq!(closing.get(), available + held);
    let report = db.database().audit().await.unwrap();
    assert_eq!((report.breaches, report.entries), (vec![], entries));
}
