//! The ledger through its public API, against a pool with one statement per request, in the same run.
//!
//! `cargo bench --bench ledger` starts a private Postgres, or uses `TOLLGATE_TEST_DATABASE_URL`. `-- --max-batch N` for other batches,
//! `-- --profile two-commit` for the other profile, `-- --gateways N` for so many writers of one organisation, `-- --only TEXT` for the
//! cases whose names contain the text.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark may stop with a panic")]
#![expect(
    clippy::disallowed_methods,
    reason = "the reference is a statement of its own, on a clock of its own"
)]

#[path = "support.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tollgate::clock::Clock;
use tollgate::config::Profile;
use tollgate::credits::{Credits, PriceFactor};
use tollgate::ids::{GatewayId, HoldId, KeyId, OrgId, UserId};
use tollgate::order::Labels;
use tollgate::pricing::BookVersion;
use tollgate::secret::Secret;
use tollgate::store::{
    Acting, Actor, Applied, BudgetLevel, Database, Fingerprint, LaneSettings, Ledger, NewBudget, NewHold,
    NewOrg, NewUser, Period, Role, Step, Verdict, Why,
};

const RUN: Duration = Duration::from_secs(4);

fn main() {
    let scratch = support::Scratch::new("ledger");
    let (_cluster, url) = match std::env::var("TOLLGATE_TEST_DATABASE_URL") {
        Ok(url) => (None, url),
        Err(_) => {
            let (cluster, url) = support::postgres(&scratch);
            (Some(cluster), url)
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(url));
}

async fn run(url: String) {
    let database = Database::connect(&Secret::new(url.clone()), 32, Duration::from_secs(30))
        .unwrap()
        .acting(Actor::program("bench"));
    database.migrate().await.unwrap();
    let start = || {
        Ledger::start((*database).clone(), GatewayId::generate(), &settings(), Duration::from_secs(10), Clock)
    };
    let ledger = start();
    println!("profile {:?}", settings().profile);
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(32).connect(&url).await.unwrap();

    println!("{:<44} {:>10} {:>9} {:>9} {:>7}", "case", "per s", "p50 ms", "p99 ms", "x CTE");
    let org = funded(&database, 1 << 50).await;
    let reference = {
        let pool = pool.clone();
        measure("one statement per request, pool of 32, 256", 256, None, move |_| {
            let pool = pool.clone();
            async move { cte(&pool, org).await }
        })
        .await
    };
    for callers in [1usize, 32, 256, 1024] {
        let org = funded(&database, 1 << 50).await;
        let ledger = ledger.clone();
        measure(&format!("reserve, one organisation, {callers}"), callers, Some(reference), move |_| {
            let ledger = ledger.clone();
            async move { reserve(&ledger, org).await }
        })
        .await;
    }
    let gateways: Vec<Ledger> = (0..option("--gateways").unwrap_or(4)).map(|_| start()).collect();
    for callers in [256usize, 1024] {
        let (org, gateways) = (funded(&database, 1 << 50).await, gateways.clone());
        let name = format!("the same, {} gateways, {callers}", gateways.len());
        measure(&name, callers, Some(reference), move |n| {
            let ledger = gateways[n as usize % gateways.len()].clone();
            async move { reserve(&ledger, org).await }
        })
        .await;
    }
    for gateway in &gateways {
        gateway.shut_down().await;
    }
    let org = funded(&database, 1 << 50).await;
    {
        let ledger = ledger.clone();
        measure("reserve + run + settle, one organisation, 256", 256, Some(reference), move |_| {
            let ledger = ledger.clone();
            async move { whole_life(&ledger, org).await }
        })
        .await;
    }
    let org = funded(&database, 1 << 50).await;
    {
        let ledger = ledger.clone();
        measure("reserve + release, one organisation, 256", 256, Some(reference), move |_| {
            let ledger = ledger.clone();
            async move { reserve_release(&ledger, org).await }
        })
        .await;
    }
    let mut orgs = Vec::new();
    for _ in 0..1000 {
        orgs.push(funded(&database, 1 << 40).await);
    }
    let orgs = Arc::new(orgs);
    {
        let ledger = ledger.clone();
        measure("reserve, 1,000 organisations mixed, 256", 256, None, move |n| {
            let (ledger, org) = (ledger.clone(), orgs[(n as usize * 7919) % orgs.len()]);
            async move { reserve(&ledger, org).await }
        })
        .await;
    }
    for (what, keys, users) in
        [("one key", 1, 1), ("16 keys, 4 users", 16, 4), ("256 keys and users", 256, 256)]
    {
        let org = funded(&database, 1 << 50).await;
        budgets(&database, org, 1 << 50).await;
        let callers = callers(&database, org, keys, users).await;
        let ledger = ledger.clone();
        measure(&format!("reserve, key and user budgets, {what}, 256"), 256, Some(reference), move |n| {
            let (ledger, (key, user)) = (ledger.clone(), callers[n as usize % callers.len()]);
            async move {
                match ledger.reserve(NewHold { key: Some(key), user, ..new_hold(org) }).await.unwrap() {
                    Verdict::Granted(guard) => std::mem::forget(guard),
                    other => panic!("{other:?}"),
                }
            }
        })
        .await;
    }
    {
        let org = funded(&database, 1 << 50).await;
        budgets(&database, org, 1).await;
        let callers = callers(&database, org, 16, 4).await;
        let ledger = ledger.clone();
        measure("refusals by a budget, 16 keys, 4 users, 256", 256, None, move |n| {
            let (ledger, (key, user)) = (ledger.clone(), callers[n as usize % callers.len()]);
            async move {
                let verdict =
                    ledger.reserve(NewHold { key: Some(key), user, ..new_hold(org) }).await.unwrap();
                assert!(matches!(verdict, Verdict::OverBudget { .. }));
            }
        })
        .await;
    }
    let empty = funded(&database, 1).await;
    for callers in [256, 1024] {
        let ledger = ledger.clone();
        measure(&format!("refusals of an empty organisation, {callers}"), callers, None, move |_| {
            let ledger = ledger.clone();
            async move {
                let verdict = ledger.reserve(new_hold(empty)).await.unwrap();
                assert!(matches!(verdict, Verdict::Insufficient { .. }));
            }
        })
        .await;
    }
    ledger.shut_down().await;
    let report = database.audit().await.unwrap();
    println!("audit: {} breaches in {} holds", report.breaches.len(), report.holds);
    for finding in report.breaches.iter().take(5) {
        println!("{finding:?}");
    }
}

/// What stands after `--name` on the command line.
fn option<T: std::str::FromStr>(name: &str) -> Option<T> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map(|value| value.parse().ok().expect("a usable value"))
}

/// The defaults, or what the command line says.
fn settings() -> LaneSettings {
    let defaults = LaneSettings::default();
    let profile = match option::<String>("--profile").as_deref() {
        None | Some("plain") => Profile::Plain,
        Some("two-commit") => Profile::TwoCommit,
        Some(other) => panic!("--profile {other}: it must be plain or two-commit"),
    };
    LaneSettings { max_batch: option("--max-batch").unwrap_or(defaults.max_batch), profile, ..defaults }
}

async fn funded(database: &Acting, credits: i64) -> OrgId {
    let org = database
        .add_org(&NewOrg { name: GatewayId::generate().to_string(), time_zone: "UTC".into() })
        .await
        .unwrap();
    database
        .grant(org, Credits::new(credits), None, Why { reason: "bench", external_ref: None }, None)
        .await
        .unwrap();
    org
}

/// A daily budget for each key, a monthly one for each user.
async fn budgets(database: &Acting, org: OrgId, credits: i64) {
    for (level, period) in [(BudgetLevel::Key, Period::Daily), (BudgetLevel::User, Period::Monthly)] {
        let credits = Some(Credits::new(credits));
        let new = NewBudget { org: Some(org), level, subject: None, period, credits, thresholds: None };
        database.make_budget(&new).await.unwrap();
    }
}

/// So many keys, in turn of so many users.
async fn callers(database: &Acting, org: OrgId, keys: usize, users: usize) -> Arc<Vec<(KeyId, UserId)>> {
    let mut of = Vec::new();
    for number in 0..users {
        of.push(
            database
                .add_user(org, &NewUser { name: number.to_string(), role: Role::Member, team: None })
                .await
                .unwrap(),
        );
    }
    Arc::new((0..keys).map(|number| (KeyId::generate(), of[number % users])).collect())
}

fn new_hold(org: OrgId) -> NewHold {
    thread_local! { static NAMES: [Arc<str>; 3] = ["pro-text-to-video".into(), "kling-3.0".into(), "main".into()]; }
    let [task_type, backend, account] = NAMES.with(Clone::clone);
    NewHold {
        hold: HoldId::generate(),
        org,
        user: UserId::from_uuid(org.as_uuid()),
        key: None,
        amount: Credits::new(400),
        list_price: Credits::new(400),
        factor: PriceFactor::LIST,
        book: BookVersion::new(1),
        task_type,
        backend,
        account,
        fingerprint: Fingerprint::from_bytes(&[7; 32]).unwrap(),
        idempotency_key: None,
        refuse_if_in_doubt: true,
        refuse_if_unanswered: false,
        labels: Labels::default(),
    }
}

async fn reserve(ledger: &Ledger, org: OrgId) {
    match ledger.reserve(new_hold(org)).await.unwrap() {
        // The bench leaves its holds open: forgetting the guard keeps it from releasing them.
        Verdict::Granted(guard) => std::mem::forget(guard),
        other => panic!("{other:?}"),
    }
}

async fn reserve_release(ledger: &Ledger, org: OrgId) {
    let Verdict::Granted(mut guard) = ledger.reserve(new_hold(org)).await.unwrap() else { panic!() };
    let applied = guard.step(Step::Refuse { reason: "bench", possible_loss: Credits::ZERO }).await.unwrap();
    assert_eq!(applied, Applied::Yes);
}

async fn whole_life(ledger: &Ledger, org: OrgId) {
    let Verdict::Granted(mut guard) = ledger.reserve(new_hold(org)).await.unwrap() else { panic!() };
    let run = Step::Run {
        task: guard.id().to_string().into(),
        raw: Some(Credits::new(400)),
        poll_in: Duration::from_secs(600),
    };
    assert_eq!(guard.step(run).await.unwrap(), Applied::Yes);
    let settle = Step::Settle {
        task: None,
        raw: Credits::new(400),
        reported: Some(Credits::new(400)),
        charge: Credits::new(400),
        flag: None,
    };
    assert_eq!(guard.step(settle).await.unwrap(), Applied::Yes);
}

/// What a simple gateway would do: one statement a request that debits the row and writes the hold.
async fn cte(pool: &sqlx::PgPool, org: OrgId) {
    let done = sqlx::query(
        "with paid as (update org_balance set available = available - 400, held = held + 400, open_tasks = open_tasks + 1 \
           where org_id = $1 and available >= 400 returning available), \
         made as (insert into hold (org_id, hold_id, user_id, amount, list_price, factor_bp, price_book, balance_after, overdraft, \
           task_type, backend, account, owner, fingerprint, created_at) \
         select $1, $2, $1, 400, 400, 10000, 1, available, 0, 'pro-text-to-video', 'kling-3.0', 'main', $1, \
           decode(repeat('07', 32), 'hex'), now() from paid returning org_id, hold_id, backend, account, owner) \
         insert into open_task (org_id, hold_id, state, backend, account, owner, due_at) \
         select org_id, hold_id, 'HELD', backend, account, owner, now() + interval '1 minute' from made",
    )
    .bind(org.as_uuid())
    .bind(HoldId::generate().as_uuid())
    .execute(pool)
    .await
    .unwrap();
    assert_eq!(done.rows_affected(), 1);
}

async fn measure<F, R>(name: &str, callers: usize, reference: Option<f64>, call: F) -> f64
where
    F: Fn(u64) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send,
{
    if option::<String>("--only").is_some_and(|only| !name.contains(&only)) {
        return 0.0;
    }
    let started = Instant::now();
    let counter = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (call, counter) = (call.clone(), counter.clone());
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < RUN {
                let begin = Instant::now();
                call(counter.fetch_add(1, Ordering::Relaxed)).await;
                latencies.push(begin.elapsed().as_secs_f64() * 1e3);
            }
            latencies
        });
    }
    let mut latencies = tasks.join_all().await.concat();
    let rate = latencies.len() as f64 / started.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let at = |share| support::percentile(&latencies, share);
    let multiple = reference
        .filter(|reference| *reference > 0.0)
        .map_or(String::new(), |reference| format!("{:.1}", rate / reference));
    println!("{name:<44} {rate:>10.0} {:>9.2} {:>9.2} {multiple:>7}", at(0.5), at(0.99));
    rate
}
