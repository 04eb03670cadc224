//! The ledger under load while callers leave, connections die, gateways die, and several gateways mix their batches.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tollgate::clock::Clock;
use tollgate::ids::{GatewayId, HoldId, KeyId, OrgId};
use tollgate::secret::Secret;
use tollgate::store::{Applied, Database, LaneSettings, Ledger, NewHold, State, Step, StoreError, Verdict};

use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{
    HOUR, doubt, fail, funded, grant, lanes, ledger, ledger_of, ledger_with, money, new_hold, refuse, run,
    settle, state, with_key,
};
use crate::support::network::{Flow, Network, Weather};

/// Doubts do not grow old in these tests.
const NEVER: Duration = Duration::from_secs(86_400);

fn one_lane() -> LaneSettings {
    LaneSettings { lanes: 1, ..lanes() }
}

async fn count(pool: &PgPool, condition: &'static str) -> i64 {
    let sql = sqlx::AssertSqlSafe(format!("select count(*) from task where {condition}"));
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

/// Until the lanes' connections are gone: their statistics are complete then.
async fn until_disconnected(pool: &PgPool) {
    until("the lanes have disconnected", async || {
        sqlx::query_scalar(
            "select count(*) = 0 from pg_stat_activity where datname = current_database() and application_name = 'tollgate-lane'",
        )
        .fetch_one(pool)
        .await
        .unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_at_any_instant_leave_no_hold_behind() {
    let db = TestDatabase::new().await;
    let gateways = [ledger(&db).await, ledger(&db).await];
    let org = funded(&db, 300).await;
    let (mut seen, mut granted, mut rounds) = (0, 0, 0);
    // 2,000 of them; more where the machine's pace lets nearly all give up too early or too late.
    while rounds == 0 || (rounds < 10 && (seen < 50 || granted - seen < 50)) {
        seen += callers_that_give_up(&gateways, org, 2_000).await;
        granted = count(db.pool(), "true").await;
        rounds += 1;
    }
    for gateway in &gateways {
        gateway.shut_down().await;
    }
    assert!(seen >= 50 && granted - seen >= 50, "{granted} granted, {seen} of them seen");
    assert_eq!(money(db.database(), org).await, [300, 0, 0]);
    assert_eq!(count(db.pool(), "state <> 'RELEASED'").await, 0);
}

/// How many of them saw their grant.
async fn callers_that_give_up(gateways: &[Ledger; 2], org: OrgId, tries: usize) -> i64 {
    let mut callers = JoinSet::new();
    let mut seen = 0;
    for n in 0..tries {
        while callers.len() >= 100 {
            seen += callers.join_next().await.unwrap().unwrap();
        }
        let ledger = gateways[n % 2].clone();
        let patience = rand::rng().random_range(0..1 << (n % 12));
        let new = if n % 3 == 0 { with_key(org, 1, &format!("key {}", n % 50)) } else { new_hold(org, 1) };
        callers.spawn(async move {
            let left = async {
                for _ in 0..patience {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                () = left => 0,
                verdict = ledger.reserve(new) => match verdict {
                    Ok(verdict) => i64::from(matches!(verdict, Verdict::Granted(_))),
                    // those who gave up may still fill the queue of a slow machine
                    Err(StoreError::QueueFull) => 0,
                    Err(error) => panic!("{error:?}"),
                },
            }
        });
    }
    seen + callers.join_all().await.into_iter().sum::<i64>()
}

#[tokio::test]
async fn the_sweep_releases_our_overdue_holds_that_nobody_works_on() {
    let db = TestDatabase::new().await;
    let (gateway, org) = (GatewayId::generate(), funded(&db, 100).await);
    db.database().renew_lease(gateway, HOUR).await.unwrap();
    let overdue_at_once = LaneSettings { hold_grace: Duration::ZERO, ..one_lane() };
    let works = ledger_of(&db, gateway, overdue_at_once);
    let does_not = ledger_of(&db, gateway, one_lane());
    let guard = grant(&works, new_hold(org, 10)).await;
    let in_time = grant(&does_not, new_hold(org, 10)).await;

    works.sweep(db.database(), NEVER).await.unwrap();
    // Behind the sweep in the same lane.
    works.step(org, HoldId::generate(), refuse()).await.unwrap();
    assert_eq!(state(db.database(), org, guard.id()).await, State::Held, "somebody works on it");

    does_not.sweep(db.database(), NEVER).await.unwrap();
    does_not.step(org, HoldId::generate(), refuse()).await.unwrap();
    assert_eq!(state(db.database(), org, guard.id()).await, State::Released);
    assert_eq!(state(db.database(), org, in_time.id()).await, State::Held, "it is not overdue");
    std::mem::forget((guard, in_time));
}

#[tokio::test]
async fn the_sweep_leaves_holds_of_living_gateways_alone_and_doubts_those_of_dead_ones() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 100).await;
    let overdue_at_once = || LaneSettings { hold_grace: Duration::ZERO, ..one_lane() };
    let (living, dead) =
        (ledger_with(&db, overdue_at_once()).await, ledger_with(&db, overdue_at_once()).await);
    let never_registered = ledger_of(&db, GatewayId::generate(), overdue_at_once());
    let sweeper = ledger(&db).await;
    let alive = grant(&living, new_hold(org, 10)).await;
    let orphan = grant(&dead, new_hold(org, 10)).await;
    let mut running = grant(&dead, new_hold(org, 10)).await;
    running.step(run(running.id())).await.unwrap();
    let unknown = grant(&never_registered, new_hold(org, 10)).await;
    db.database().end_lease(dead.gateway()).await.unwrap();

    sweeper.sweep(db.database(), NEVER).await.unwrap();
    assert_eq!(state(db.database(), org, alive.id()).await, State::Held);
    assert_eq!(state(db.database(), org, orphan.id()).await, State::InDoubt);
    assert_eq!(state(db.database(), org, unknown.id()).await, State::InDoubt);
    assert_eq!(state(db.database(), org, running.id()).await, State::Running, "anybody can poll it");
    assert_eq!(money(db.database(), org).await, [60, 40, 0]);
    std::mem::forget((alive, orphan, unknown));
}

#[tokio::test]
async fn a_task_that_runs_and_is_due_is_claimed_by_one_gateway() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    for due in [true, true, true, true, false] {
        let mut guard = grant(&ledger, new_hold(org, 10)).await;
        let Step::Run { task, raw, .. } = run(guard.id()) else { unreachable!() };
        let poll_in = if due { Duration::ZERO } else { HOUR };
        guard.step(Step::Run { task, raw, poll_in }).await.unwrap();
    }
    let claims = (0..4).map(|_| db.database().claim_due("kling-3.0", 3, HOUR, &[]));
    let claimed: Vec<_> = futures_util::future::try_join_all(claims).await.unwrap().concat();
    let mut holds: Vec<_> = claimed.iter().map(|task| task.hold).collect();
    holds.sort();
    holds.dedup();
    assert_eq!((claimed.len(), holds.len()), (4, 4));
    assert!(
        db.database().claim_due("kling-3.0", 10, HOUR, &[]).await.unwrap().is_empty(),
        "the next poll is an hour away"
    );
}

/// What a caller was told about its hold in the end.
enum Told {
    Ended(State),
    NotGranted,
}

async fn one_life(ledger: &Ledger, org: OrgId, kind: usize) -> (OrgId, HoldId, Told) {
    let new = if kind.is_multiple_of(2) {
        with_key(org, 10, &HoldId::generate().to_string())
    } else {
        new_hold(org, 10)
    };
    let hold = new.hold;
    let Ok(Verdict::Granted(mut guard)) = ledger.reserve(new).await else {
        return (org, hold, Told::NotGranted);
    };
    let (steps, end) = match kind % 5 {
        0 | 1 => (vec![run(hold), settle(7)], State::Settled),
        2 => (vec![run(hold), fail(3)], State::Released),
        3 => (vec![doubt(), run(hold)], State::Running),
        _ => (vec![refuse()], State::Released),
    };
    for step in steps {
        // A step whose answer was lost says No when it is sent again.
        assert!(matches!(guard.step(step).await.unwrap(), Applied::Yes | Applied::No));
    }
    (org, hold, Told::Ended(end))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_connections_that_are_killed_again_and_again() {
    let db = TestDatabase::new().await;
    let gateways = [ledger(&db).await, ledger(&db).await];
    // The last one is soon empty, and stays so.
    let orgs = [funded(&db, 100_000).await, funded(&db, 100_000).await, funded(&db, 200).await];
    let mut callers = JoinSet::new();
    for caller in 0..48 {
        let gateway = gateways[caller % 2].clone();
        callers.spawn(async move {
            let mut told = Vec::new();
            for n in 0..25 {
                told.push(one_life(&gateway, orgs[(caller + n) % 3], caller * 7 + n).await);
            }
            told
        });
    }
    let mut told = Vec::new();
    let mut killed = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while !callers.is_empty() {
        tokio::select! {
            lives = callers.join_next() => told.extend(lives.unwrap().unwrap()),
            _ = pace.tick(), if killed < 150 => {
                killed += sqlx::query_scalar::<_, i64>(
                    "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity \
                     where datname = current_database() and application_name = 'tollgate-lane'",
                )
                .fetch_one(db.pool())
                .await
                .unwrap();
            }
        }
    }
    for gateway in &gateways {
        gateway.shut_down().await;
    }
    assert!(killed >= 20, "only {killed} connections were killed");
    let mut refused = 0;
    for (org, hold, told) in told {
        let task = db.database().task_by_hold(org, hold).await.unwrap();
        match told {
            Told::Ended(end) => assert_eq!(task.unwrap().state, end),
            Told::NotGranted => {
                refused += 1;
                assert!(task.is_none_or(|task| task.state == State::Released));
            }
        }
    }
    assert!(refused > 0);
    assert_eq!(count(db.pool(), "state = 'HELD'").await, 0);
}

/// Answers are lost after the database has acted on the question: what cannot be known must be asked again, and a
/// hold that was granted unheard is granted, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_lost_on_the_way_is_neither_a_lost_grant_nor_a_second_one() {
    const CALLERS: usize = 12;
    const LIVES: usize = 40;
    let db = TestDatabase::new().await;
    let network = Network::to(db.url()).await;
    network.set(Weather { answers: Flow::Lose(0.25), ..Weather::CLEAR });
    let behind = Database::connect(&Secret::new(network.url()), 1, HOUR).unwrap();
    let gateway = GatewayId::generate();
    db.database().renew_lease(gateway, HOUR).await.unwrap();
    let ledger = Ledger::start(behind, gateway, &LaneSettings { lanes: 2, ..lanes() }, HOUR, Clock);
    // Enough for all of them, and for nothing that is granted twice.
    let total = i64::try_from(CALLERS * LIVES).unwrap() * 10;
    let orgs = [funded(&db, total / 2).await, funded(&db, total / 2).await];
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (ledger, org) = (ledger.clone(), orgs[caller % 2]);
        callers.spawn(async move {
            for n in 0..LIVES {
                let key = HoldId::generate().to_string();
                let new = if n % 2 == 0 { with_key(org, 10, &key) } else { new_hold(org, 10) };
                let mut guard = grant(&ledger, new).await;
                for step in [run(guard.id()), settle(10)] {
                    assert!(matches!(guard.step(step).await.unwrap(), Applied::Yes | Applied::No));
                }
            }
        });
    }
    callers.join_all().await;
    assert!(network.lost() >= 15, "only {} answers were lost", network.lost());
    for org in orgs {
        assert_eq!(money(db.database(), org).await, [0, 0, total / 2]);
    }
}

/// The grant's answer is lost, and before it is asked for again another gateway puts the hold in doubt. It was never
/// sent, and only the gateway that could not hear knows that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_unheard_and_taken_over_is_released() {
    let db = TestDatabase::new().await;
    let network = Network::to(db.url()).await;
    let behind = Database::connect(&Secret::new(network.url()), 1, HOUR).unwrap();
    let gateway = GatewayId::generate();
    db.database().renew_lease(gateway, HOUR).await.unwrap();
    let settings = LaneSettings { call_timeout: Duration::from_secs(2), ..one_lane() };
    let deaf = Ledger::start(behind, gateway, &settings, Duration::from_secs(3), Clock);
    let other = ledger(&db).await;
    let org = funded(&db, 100).await;
    // Makes the connection.
    grant(&deaf, new_hold(org, 1)).await.step(refuse()).await.unwrap();
    network.set(Weather { answers: Flow::Swallow, ..Weather::CLEAR });
    let new = new_hold(org, 10);
    let hold = new.hold;
    let refused = deaf.reserve(new).await;
    assert!(matches!(refused, Err(StoreError::Timeout)), "{refused:?}");
    until("the grant is there", async || db.database().task_by_hold(org, hold).await.unwrap().is_some())
        .await;
    assert_eq!(other.step(org, hold, doubt()).await.unwrap(), Applied::Yes);
    network.set(Weather::CLEAR);
    until("it is released", async || state(db.database(), org, hold).await == State::Released).await;
    assert_eq!(money(db.database(), org).await, [100, 0, 0]);
}

/// The rows of a batch are locked in an order all writers share; in order of arrival they would deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_batches_of_three_gateways_never_deadlock() {
    let db = TestDatabase::new().await;
    let gateways = [
        ledger_with(&db, one_lane()).await,
        ledger_with(&db, one_lane()).await,
        ledger_with(&db, one_lane()).await,
    ];
    let mut orgs = Vec::new();
    for _ in 0..40 {
        orgs.push(funded(&db, 10_000).await);
    }
    let orgs = Arc::new(orgs);
    let mut callers = JoinSet::new();
    for caller in 0..120 {
        let (gateway, orgs) = (gateways[caller % 3].clone(), orgs.clone());
        callers.spawn(async move {
            for _ in 0..15 {
                let org = orgs[rand::rng().random_range(0..orgs.len())];
                let mut guard = grant(&gateway, new_hold(org, 1)).await;
                guard.step(run(guard.id())).await.unwrap();
                guard.step(settle(1)).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    for gateway in &gateways {
        gateway.shut_down().await;
    }
    until_disconnected(db.pool()).await;
    let deadlocks: i64 =
        sqlx::query_scalar("select deadlocks from pg_stat_database where datname = current_database()")
            .fetch_one(db.pool())
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
    let mut consumed = 0;
    for org in orgs.iter() {
        consumed += money(db.database(), *org).await[2];
    }
    assert_eq!(consumed, 120 * 15);
}

/// What keeps the paid path cheap: its updates of the hot row touch no index, and what it looks up it finds by all
/// of an index, however little the planner knew about the tables when the lanes began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lanes_update_the_hot_row_in_place_and_read_no_row_they_do_not_want() {
    const LIVES: usize = 400;
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger_with(&db, one_lane()).await, funded(&db, 100_000).await);
    for n in 0..LIVES {
        let new = if n.is_multiple_of(2) { with_key(org, 10, &n.to_string()) } else { new_hold(org, 10) };
        let mut guard = grant(&ledger, NewHold { key: Some(KeyId::generate()), ..new }).await;
        let ends = [vec![run(guard.id()), settle(10)], vec![doubt()], vec![refuse()]];
        for step in ends[n % 3].clone() {
            assert_eq!(guard.step(step).await.unwrap(), Applied::Yes);
        }
    }
    ledger.shut_down().await;
    until_disconnected(db.pool()).await;
    let (updates, hot): (i64, i64) = sqlx::query_as(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = 'org_balance'",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    // The record of an accepted create does not touch it.
    assert!((780..=820).contains(&updates) && hot * 100 >= updates * 95, "{hot} of {updates} in place");
    // `gateway` has a row for each gateway: once the planner knows that it is one page, it reads that.
    let read: Vec<(String, i64, i64)> = sqlx::query_as(
        "select relname::text, seq_scan, idx_tup_fetch from pg_stat_user_tables \
         where (seq_scan > 0 or idx_tup_fetch > $1) and relname <> 'gateway'",
    )
    .bind(i64::try_from(LIVES * 10).unwrap())
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(read, []);
    let read: Vec<(String, i64, i64)> = sqlx::query_as(
        "select indexrelname::text, idx_scan, idx_tup_read from pg_stat_user_indexes \
         where relname in ('hold', 'idempotency') and idx_tup_read > 3 * $1",
    )
    .bind(i64::try_from(LIVES).unwrap())
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(read, []);
}
