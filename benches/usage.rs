//! Usage, statements and lists over ten million charged tasks.
//!
//! `cargo bench --bench usage` starts a private Postgres, or uses `TOLLGATE_TEST_DATABASE_URL` (an empty, migrated database, or one that
//! this benchmark has filled). `-- --tasks N` for another number.
//!
//! The tasks are entries, made by SQL, a year of them in 200 organisations, one with three in ten of all; the rollup is
//! kept by its trigger. Usage and lists read nothing else. Statements look at each line's hold, so the big organisation's
//! month that is measured has its holds; no other entry has one.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may stop with a panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "it makes its tasks behind the ledger's back, on a clock of its own"
)]

#[path = "support.rs"]
mod support;

use std::time::{Duration, Instant};

use sqlx::postgres::{PgPool, PgPoolOptions};
use time::Date;
use time::macros::date;
use tollgate::credits::Credits;
use tollgate::ids::OrgId;
use tollgate::secret::Secret;
use tollgate::store::{Actor, Database, EntryFilter, EntryKind, UsageBy, UsageFilter};
use uuid::Uuid;

/// How often each query is asked.
const TIMES: usize = 15;

/// What is added in one statement.
const CHUNK: i64 = 500_000;

/// The month whose lines have their holds.
const MONTH: &str = "2026-05";

/// A query: its name, whose usage, from and to, split by what.
type Asked = (&'static str, Option<OrgId>, (Date, Date), &'static [UsageBy]);

fn main() {
    let scratch = support::Scratch::new("usage");
    let (_cluster, url) = match std::env::var("TOLLGATE_TEST_DATABASE_URL") {
        Ok(url) => (None, url),
        Err(_) => {
            let (cluster, url) = support::postgres(&scratch);
            (Some(cluster), url)
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(&url));
}

async fn run(url: &str) {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--tasks").skip(1);
    let tasks: i64 = arguments.next().map_or(10_000_000, |value| value.parse().expect("a number of tasks"));
    let pool = PgPoolOptions::new().max_connections(2).connect(url).await.unwrap();
    let there: i64 = sqlx::query_scalar("select count(*) from org").fetch_one(&pool).await.unwrap();
    if there == 0 {
        fill(&pool, tasks).await;
    }
    let (days, entries): (i64, i64) = sqlx::query_as(
        "select (select count(*) from usage_day), (select count(*) from entry where kind = 'consume')",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    println!("{entries} tasks, {days} rows of the rollup");

    let database = Database::connect(&Secret::new(url), 4, Duration::from_secs(30))
        .unwrap()
        .acting(Actor::program("bench"));
    let orgs: Vec<Uuid> =
        sqlx::query_scalar("select org_id from org order by org_id").fetch_all(&pool).await.unwrap();
    let (big, small) = (OrgId::from_uuid(orgs[0]), OrgId::from_uuid(orgs[100]));
    println!("{:<58} {:>7} {:>9} {:>9}", "query", "rows", "p50 ms", "max ms");
    let year = (date!(2025 - 07 - 01), date!(2026 - 06 - 30));
    let may = (date!(2026 - 05 - 01), date!(2026 - 05 - 31));
    let asked: [Asked; 13] = [
        ("all organisations, a year, one sum", None, year, &[]),
        ("all organisations, a year, by organisation", None, year, &[UsageBy::Org]),
        ("all organisations, a year, by day", None, year, &[UsageBy::Day]),
        ("all organisations, a year, by task type", None, year, &[UsageBy::TaskType]),
        ("all organisations, a month, by organisation and day", None, may, &[UsageBy::Org, UsageBy::Day]),
        ("big organisation, a year, one sum", Some(big), year, &[]),
        ("big organisation, a year, by team", Some(big), year, &[UsageBy::Team]),
        ("big organisation, a year, by user", Some(big), year, &[UsageBy::User]),
        ("big organisation, a year, by key", Some(big), year, &[UsageBy::Key]),
        ("big organisation, a year, by task type", Some(big), year, &[UsageBy::TaskType]),
        ("big organisation, a year, by day and user", Some(big), year, &[UsageBy::Day, UsageBy::User]),
        ("big organisation, a month, by everything", Some(big), may, &UsageBy::ALL[..6]),
        ("small organisation, a year, by day and user", Some(small), year, &[UsageBy::Day, UsageBy::User]),
    ];
    for (name, org, (from, to), by) in asked {
        let filter =
            UsageFilter { org, from, to, team: None, user: None, key: None, task_type: None, label: None };
        measure(name, async || database.usage(&filter, by, 100_000, 0).await.unwrap().len()).await;
    }
    let user: Uuid = sqlx::query_scalar("select user_id from usage_day where org_id = $1 limit 1")
        .bind(orgs[0])
        .fetch_one(&pool)
        .await
        .unwrap();
    let user = Some(tollgate::ids::UserId::from_uuid(user));
    let filter = UsageFilter {
        org: Some(big),
        from: year.0,
        to: year.1,
        team: None,
        user,
        key: None,
        task_type: None,
        label: None,
    };
    measure("one user of the big organisation, a year, by day", async || {
        database.usage(&filter, &[UsageBy::Day], 100_000, 0).await.unwrap().len()
    })
    .await;
    measure("credit summary of the big organisation", async || {
        database.credit_summary(big, Credits::ZERO).await.unwrap();
        1
    })
    .await;
    let filter = EntryFilter::default();
    measure("newest 200 entries of the big organisation", async || {
        database.entries(big, &filter, 200).await.unwrap().len()
    })
    .await;
    let filter = EntryFilter { kind: Some(EntryKind::Grant), ..EntryFilter::default() };
    measure("its only grant, a year back", async || database.entries(big, &filter, 200).await.unwrap().len())
        .await;

    let statement = database.statement(big, MONTH.parse().unwrap()).await.unwrap();
    measure("statement of the big organisation, a month, head", async || {
        database.statement(big, MONTH.parse().unwrap()).await.unwrap();
        1
    })
    .await;
    measure("its first 200 lines", async || {
        database.statement_lines(&statement, None, None, 200).await.unwrap().len()
    })
    .await;
    let began = Instant::now();
    let (mut after, mut balance, mut lines) = (None, statement.opening, 0);
    loop {
        let page = database.statement_lines(&statement, after, Some(balance), 2000).await.unwrap();
        let Some(last) = page.last() else { break };
        (after, balance, lines) = (Some(last.entry.place()), last.balance, lines + page.len());
    }
    assert_eq!(balance, statement.closing);
    println!("all {lines} lines, 2,000 at a time: {:.1} s", began.elapsed().as_secs_f64());
    let equal: bool = sqlx::query_scalar(
        "select (select sum(charged) from usage_day) = (select -sum(amount) from entry where kind = 'consume')",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    println!("the rollup adds up to the entries: {equal}");
}

async fn measure(name: &str, ask: impl AsyncFn() -> usize) {
    let mut rows = 0;
    let mut times = Vec::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        rows = ask().await;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let [p50, max] = [0.5, 1.0].map(|share| support::percentile(&times, share));
    println!("{name:<58} {rows:>7} {p50:>9.1} {max:>9.1}");
}

async fn fill(pool: &PgPool, tasks: i64) {
    let began = Instant::now();
    let made = "insert into org (org_id, name, created_at) select md5('org ' || n)::uuid, 'org ' || n, '2025-07-01' from generate_series(0, 199) n; \
         insert into org_balance (org_id) select org_id from org; \
         create function pg_temp.id_of(n bigint, what text) returns uuid language sql immutable as $$ select md5(what || n)::uuid $$";
    // Its functions belong to one session.
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql(made).execute(&mut *connection).await.unwrap();
    // The organisation whose id comes first is the big one.
    sqlx::raw_sql(
        "create temp table place as select org_id, row_number() over (order by org_id) - 1 as n from org; \
         create unique index on place (n); set synchronous_commit = off; \
         select post_entry(org_id, gen_random_uuid(), 'grant', 1000000000000, 'bench', null, null, null, 'bench', '2025-07-01') from org",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    let mut done = 0;
    while done < tasks {
        let upto = (done + CHUNK).min(tasks);
        // In the order of time. Of ten tasks three are the big organisation's, which has 40 users with two keys each and
        // three teams; the others have five users with one.
        sqlx::query(
            "insert into entry (org_id, entry_id, kind, amount, hold_id, user_id, key_id, team_id, task_type, created_at) \
             select p.org_id, t.id, 'consume', -(100 + t.n % 700), t.id, pg_temp.id_of(t.who, p.n || ' user '), \
                    pg_temp.id_of(t.who * 2 + case when t.big then t.n / 7 % 2 else 0 end, p.n || ' key '), \
                    pg_temp.id_of(t.who % 3, p.n || ' team '), \
                    case (t.who + t.n / 3 % 2) % 4 when 0 then 'pro-text-to-video' when 1 then 'std-image-to-video' \
                         when 2 then 'o3-pro-text-to-video' else 'o3-std-video-edit' end, \
                    timestamptz '2025-07-01 00:00+00' + t.n * (interval '365 days' / $3::bigint::float8) \
             from (select n, lpad(to_hex(n), 32, '0')::uuid as id, n % 10 < 3 as big, \
                          case when n % 10 < 3 then n / 10 % 40 else n / 2000 % 5 end as who, \
                          case when n % 10 < 3 then 0 else 1 + n % 199 end as place \
                   from generate_series($1::bigint, $2::bigint - 1) n) t join place p on p.n = t.place",
        )
        .bind(done)
        .bind(upto)
        .bind(tasks)
        .execute(&mut *connection)
        .await
        .unwrap();
        done = upto;
        eprintln!("{done} tasks after {:.0} s", began.elapsed().as_secs_f64());
    }
    sqlx::raw_sql(
        "update org_balance b set consumed = e.spent, available = available - e.spent \
         from (select org_id, sum(charged)::bigint as spent from usage_day group by 1) e where e.org_id = b.org_id; \
         insert into hold (org_id, hold_id, user_id, key_id, team_id, state, amount, list_price, factor_bp, price_book, balance_after, overdraft, \
           task_type, backend, account, owner, fingerprint, upstream_task, raw_consumed, charged, created_at, ended_at) \
         select e.org_id, e.hold_id, e.user_id, e.key_id, e.team_id, 'SETTLED', -e.amount, -e.amount, 10000, 1, 0, 0, e.task_type, 'kling-3.0', \
           'main', e.org_id, decode(md5(e.hold_id::text), 'hex'), 'task-' || e.hold_id, -e.amount, -e.amount, \
           e.created_at, e.created_at \
         from entry e where e.org_id = (select org_id from place where n = 0) and e.kind = 'consume' \
           and e.created_at >= '2026-05-01' and e.created_at < '2026-06-01'",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    sqlx::raw_sql("vacuum analyze").execute(&mut *connection).await.unwrap();
    println!("filled in {:.0} s", began.elapsed().as_secs_f64());
}
