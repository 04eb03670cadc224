//! Organisations that share a lane do not share its trouble: a locked row, a refusal that nobody foresaw, a long queue.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use sqlx::{Connection, Executor, PgConnection};
use tollgate::clock::Clock;
use tollgate::ids::{GatewayId, HoldId, OrgId};
use tollgate::store::{Applied, LaneSettings, Ledger, State, Step, StoreError, Verdict};

use crate::support::database::{TestDatabase, alter, until};
use crate::support::fixture::{
    HOUR, doubt, funded, grant, lanes, ledger_of, ledger_with, money, new_hold, refuse, run, run_as, settle,
    state,
};
use crate::support::gateway::body;
use crate::support::watched::{Vendor, Watched, key};

/// For what takes no time, on a busy machine. The lock of another's row is kept until it is done.
const GENEROUS: Duration = Duration::from_secs(30);

pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(GENEROUS, work)
        .await
        .unwrap_or_else(|_| panic!("{what}: it waits for another's row"))
}

/// One lane for all, and no time to lose.
fn one_lane() -> LaneSettings {
    LaneSettings { lanes: 1, retry_aside: Duration::from_millis(100), ..lanes() }
}

/// Somebody who has locked the balance rows of these organisations.
pub async fn lock(db: &TestDatabase, orgs: &[OrgId]) -> PgConnection {
    let mut somebody = PgConnection::connect(db.url()).await.unwrap();
    somebody.execute("begin").await.unwrap();
    for org in orgs {
        let lock = sqlx::query("select from org_balance where org_id = $1 for update").bind(org.as_uuid());
        lock.execute(&mut somebody).await.unwrap();
    }
    somebody
}

pub async fn unlock(mut somebody: PgConnection) {
    somebody.execute("rollback").await.unwrap();
}

/// A whole life of a task.
async fn live(ledger: &Ledger, org: OrgId) {
    let mut guard = grant(ledger, new_hold(org, 10)).await;
    assert_eq!(guard.step(run(guard.id())).await.unwrap(), Applied::Yes);
    assert_eq!(guard.step(settle(10)).await.unwrap(), Applied::Yes);
}

#[tokio::test]
async fn ends_of_tasks_wait_a_little_for_company() {
    let db = TestDatabase::new().await;
    let ledger = ledger_with(&db, one_lane()).await;
    let org = funded(&db, 1_000_000).await;
    // In one round or another, on a machine that is busy.
    until("two ends share a transaction although the lane had been idle in between", async || {
        let mut first = grant(&ledger, new_hold(org, 10)).await;
        let mut second = grant(&ledger, new_hold(org, 10)).await;
        for guard in [&mut first, &mut second] {
            assert_eq!(guard.step(run(guard.id())).await.unwrap(), Applied::Yes);
        }
        let holds = [first.id(), second.id()].map(HoldId::as_uuid);
        let later = async {
            // Before it grants this, the lane takes every step that does not wait.
            let between = grant(&ledger, new_hold(org, 10)).await;
            let settled = second.step(settle(10)).await;
            drop(between);
            settled
        };
        let (first, second) = tokio::join!(biased; first.step(settle(10)), later);
        assert_eq!([first.unwrap(), second.unwrap()], [Applied::Yes, Applied::Yes]);
        let sql =
            "select count(distinct xmin::text) from entry where hold_id = any ($1) and kind = 'consume'";
        let transactions: i64 = sqlx::query_scalar(sql).bind(holds).fetch_one(db.pool()).await.unwrap();
        transactions == 1
    })
    .await;
    ledger.shut_down().await;
}

#[tokio::test]
async fn a_locked_row_delays_nobody_else_and_no_accepted_create() {
    let db = TestDatabase::new().await;
    let ledger = ledger_with(&db, one_lane()).await;
    let locked = funded(&db, 1_000).await;
    let others = join_all((0..8).map(|_| funded(&db, 1_000))).await;
    let mut accepted = grant(&ledger, new_hold(locked, 10)).await;
    let mut ended = grant(&ledger, new_hold(locked, 10)).await;
    ended.step(run(ended.id())).await.unwrap();

    let somebody = lock(&db, &[locked]).await;
    let mut settling = ended.queue(settle(7));
    let (mut waiting, new) = (ledger.reserve(new_hold(locked, 10)).boxed(), new_hold(locked, 10));
    assert!((&mut waiting).now_or_never().is_none());
    // The row moves neither credit nor counter when a create is recorded.
    let recorded = within("an accepted create", accepted.step(run(accepted.id()))).await;
    assert_eq!(recorded.unwrap(), Applied::Yes);
    assert_eq!(state(db.database(), locked, accepted.id()).await, State::Running);
    // Each in turn, so that the lane meets the locked one again and again.
    for round in 0..3 {
        within("others", join_all(others.iter().map(|org| live(&ledger, *org)))).await;
        assert!(settling.try_recv().is_err() && (&mut waiting).now_or_never().is_none(), "{round}");
    }
    // What comes after the lane has set the organisation aside follows it, and its order is kept.
    let mut after = accepted.queue(settle(10));
    within("others", live(&ledger, others[0])).await;
    assert!(after.try_recv().is_err());
    assert_eq!(money(db.database(), locked).await, [980, 20, 0]);

    unlock(somebody).await;
    assert_eq!(settling.await.unwrap().unwrap(), Applied::Yes);
    assert_eq!(after.await.unwrap().unwrap(), Applied::Yes);
    assert!(matches!(waiting.await.unwrap(), Verdict::Granted(_)), "and is released");
    drop(grant(&ledger, new).await);
    ledger.shut_down().await;
    assert_eq!(money(db.database(), locked).await, [983, 0, 17]);
    for org in others {
        assert_eq!(money(db.database(), org).await[1], 0);
    }
}

/// Steps of one hold keep their order, also when the first of them waits in a side lane and the second could go.
#[tokio::test]
async fn a_late_answer_does_not_overtake_the_doubt_before_it() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger_with(&db, one_lane()).await, funded(&db, 100).await);
    let mut guard = grant(&ledger, new_hold(org, 10)).await;
    let somebody = lock(&db, &[org]).await;
    let doubted = guard.queue(doubt());
    let mut recorded = guard.queue(run(guard.id()));
    // A step of another hold shows that the lane has passed both.
    let other = funded(&db, 100).await;
    within("another", live(&ledger, other)).await;
    assert!(recorded.try_recv().is_err());
    assert_eq!(state(db.database(), org, guard.id()).await, State::Held);
    unlock(somebody).await;
    assert_eq!(doubted.await.unwrap().unwrap(), Applied::Yes);
    assert_eq!(recorded.await.unwrap().unwrap(), Applied::Yes);
    assert_eq!(state(db.database(), org, guard.id()).await, State::Running);
    let balance = db.database().balance(org).await.unwrap().unwrap();
    assert_eq!((balance.open_tasks, balance.in_doubt), (1, 0));
}

/// A batch that is sent again one by one meets a row that somebody has locked: what is left of the batch goes to the side
/// lanes before what waits behind it.
#[tokio::test]
async fn what_is_left_of_a_batch_is_not_overtaken_by_what_waits_behind_it() {
    let db = TestDatabase::new().await;
    let ledger = ledger_with(&db, one_lane()).await;
    let (org, elsewhere) = (funded(&db, 100).await, funded(&db, 100).await);
    let mut bad = grant(&ledger, new_hold(elsewhere, 10)).await;
    let mut first = grant(&ledger, new_hold(org, 10)).await;
    let mut second = grant(&ledger, new_hold(org, 10)).await;
    let somebody = lock(&db, &[org]).await;
    // All of it before the lane has its turn: one batch, which the database cannot read, and the doubt behind it.
    let unreadable = bad.queue(run_as("nul\0nul"));
    let refused = first.queue(refuse());
    let abandoned = second.queue(Step::Abandon);
    let doubted = second.queue(doubt());
    assert!(matches!(within("the bad one", unreadable).await.unwrap(), Err(StoreError::Refused(_))));
    within("another", live(&ledger, elsewhere)).await;
    unlock(somebody).await;
    let taken = [refused.await, abandoned.await, doubted.await].map(|answer| answer.unwrap().unwrap());
    assert_eq!(taken, [Applied::Yes, Applied::Yes, Applied::No], "a doubt comes after its hold was given up");
    assert_eq!(state(db.database(), org, second.id()).await, State::Released);
    ledger.shut_down().await;
}

/// The gateway that records a create, and one that takes it for dead: whoever is first, counters and state agree.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_recorded_without_the_row_meets_a_doubt_from_elsewhere() {
    let db = TestDatabase::new().await;
    let (mine, other) = (ledger_with(&db, one_lane()).await, ledger_with(&db, one_lane()).await);
    let org = funded(&db, 10_000).await;
    let mut guards = Vec::new();
    for _ in 0..200 {
        guards.push(grant(&mine, new_hold(org, 10)).await);
    }
    let races = guards.iter_mut().map(|guard| {
        let (hold, other) = (guard.id(), other.clone());
        async move {
            let (recorded, orphaned) =
                tokio::join!(guard.step(run(hold)), async { other.step(org, hold, Step::Orphan).await });
            assert_eq!(recorded.unwrap(), Applied::Yes, "from HELD or from IN_DOUBT");
            orphaned.unwrap()
        }
    });
    let first = join_all(races).await.into_iter().filter(|orphaned| *orphaned == Applied::Yes).count();
    for guard in &guards {
        assert_eq!(state(db.database(), org, guard.id()).await, State::Running);
    }
    let balance = db.database().balance(org).await.unwrap().unwrap();
    assert_eq!((balance.open_tasks, balance.in_doubt), (200, 0), "{first} were doubted first");
}

/// More organisations are locked than there are side lanes: they take turns.
#[tokio::test]
async fn one_side_lane_serves_whoever_can_be_served() {
    let db = TestDatabase::new().await;
    let ledger = ledger_with(&db, LaneSettings { side_lanes: 1, ..one_lane() }).await;
    let locked = join_all((0..4).map(|_| funded(&db, 100))).await;
    let somebody = lock(&db, &locked[..3]).await;
    let another = lock(&db, &locked[3..]).await;
    let reserve = |org| {
        let ledger = ledger.clone();
        tokio::spawn(async move { grant(&ledger, new_hold(org, 10)).await })
    };
    let waiting: Vec<_> = locked.iter().map(|org| reserve(*org)).collect();
    let other = funded(&db, 100).await;
    within("another", live(&ledger, other)).await;
    unlock(another).await;
    let mut waiting = waiting.into_iter().rev();
    drop(within("the one that is free", waiting.next().unwrap()).await.unwrap());
    unlock(somebody).await;
    for granted in waiting {
        drop(granted.await.unwrap());
    }
    ledger.shut_down().await;
    for org in locked {
        assert_eq!(money(db.database(), org).await, [100, 0, 0]);
    }
}

#[tokio::test]
async fn a_long_queue_of_one_organisation_leaves_room_for_others() {
    let db = TestDatabase::new().await;
    let settings = LaneSettings { queue: 16, max_batch: 4, ..one_lane() };
    let ledger = Ledger::start(
        (**db.database()).clone(),
        GatewayId::generate(),
        &settings,
        Duration::from_secs(60),
        Clock,
    );
    let (loud, quiet) = (funded(&db, 1_000).await, funded(&db, 1_000).await);
    let somebody = lock(&db, &[loud]).await;
    let mut waiting: Vec<_> = (0..50).map(|_| ledger.reserve(new_hold(loud, 1)).boxed()).collect();
    let refused = waiting.iter_mut().filter_map(|call| call.now_or_never());
    let full = refused.filter(|answer| matches!(answer, Err(StoreError::QueueFull))).count();
    assert_eq!(full, 42, "half of the places are for others");
    within("another", join_all((0..4).map(|_| live(&ledger, quiet)))).await;
    unlock(somebody).await;
    drop(waiting);
    ledger.shut_down().await;
    assert_eq!(money(db.database(), loud).await, [1_000, 0, 0]);
    assert_eq!(money(db.database(), quiet).await, [960, 0, 40]);
}

/// Neither orphans nor old doubts of others wait for a locked organisation, and the sweep does not queue them again.
#[tokio::test]
async fn the_sweep_does_not_stop_at_a_locked_row() {
    let db = TestDatabase::new().await;
    let (locked, other) = (funded(&db, 100).await, funded(&db, 100).await);
    let dead = ledger_of(&db, GatewayId::generate(), one_lane());
    let orphans = [grant(&dead, new_hold(locked, 10)).await, grant(&dead, new_hold(other, 10)).await];
    let mut old = grant(&dead, new_hold(other, 10)).await;
    old.step(doubt()).await.unwrap();
    let ledger = ledger_with(&db, one_lane()).await;
    let somebody = lock(&db, &[locked]).await;
    let mut sweep = ledger.sweep(db.database(), Duration::ZERO).boxed();
    let done = async || {
        let orphan = state(db.database(), other, orphans[1].id()).await;
        // A doubt that has just begun is old as well.
        matches!(orphan, State::InDoubt | State::WrittenOff)
            && state(db.database(), other, old.id()).await == State::WrittenOff
    };
    tokio::select! {
        swept = &mut sweep => panic!("the locked one is not done: {swept:?}"),
        () = until("others are swept", done) => {}
    }
    // The next sweeps leave alone what still waits.
    for _ in 0..3 {
        within("a sweep", ledger.sweep(db.database(), HOUR)).await.unwrap();
    }
    unlock(somebody).await;
    sweep.await.unwrap();
    assert_eq!(state(db.database(), locked, orphans[0].id()).await, State::InDoubt);
    std::mem::forget(orphans);
}

/// The database refuses rows of one organisation with an error of this code.
async fn refuse_rows(db: &TestDatabase, table: &str, org: OrgId, code: &str) {
    let script = format!(
        "create function unforeseen() returns trigger language plpgsql as $$ begin \
         if new.org_id = '{}' then raise exception 'on purpose' using errcode = '{code}'; end if; return new; end $$; \
         create trigger unforeseen before insert or update on {table} for each row execute function unforeseen()",
        org.as_uuid()
    );
    alter(db.pool(), &script).await;
}

async fn mend_rows(db: &TestDatabase, table: &str) {
    let script = format!("drop trigger unforeseen on {table}; drop function unforeseen()");
    alter(db.pool(), &script).await;
}

#[tokio::test]
async fn a_step_that_the_database_refuses_is_set_aside_alone() {
    // A damaged row, an exception, an error of the disk, a missing right.
    for code in ["XX001", "P0001", "58030", "42501"] {
        let db = TestDatabase::new().await;
        let ledger = ledger_with(&db, one_lane()).await;
        let (bad, good) = (funded(&db, 1_000).await, funded(&db, 1_000).await);
        let mut guards = Vec::new();
        for org in [bad, good, bad, good] {
            let mut guard = grant(&ledger, new_hold(org, 10)).await;
            guard.step(run(guard.id())).await.unwrap();
            guards.push(guard);
        }
        refuse_rows(&db, "entry", bad, code).await;
        // All of them in one batch.
        let answers: Vec<_> = guards.iter_mut().map(|guard| guard.queue(settle(10))).collect();
        for (guard, answer) in guards.iter().zip(answers) {
            let answer = within("a batch with a bad item", answer).await.unwrap();
            if guard.org() == good {
                assert_eq!(answer.unwrap(), Applied::Yes, "{code}");
            } else {
                assert!(matches!(answer, Err(StoreError::Database(_))), "{code}: {answer:?}");
                assert!(ledger.is_set_aside(guard.id()), "{code}");
            }
        }
        // The lane goes on, also for what else the organisation has.
        within("others", live(&ledger, good)).await;
        let mut running = within("its creates", grant(&ledger, new_hold(bad, 10))).await;
        assert_eq!(within("its creates", running.step(run(running.id()))).await.unwrap(), Applied::Yes);
        assert_eq!(within("its refusals", running.step(doubt())).await.unwrap(), Applied::Yes);
        mend_rows(&db, "entry").await;
        until("what was set aside is settled", async || money(db.database(), bad).await == [970, 10, 20])
            .await;
        for guard in &guards {
            until("it is not set aside any more", async || !ledger.is_set_aside(guard.id())).await;
        }
        ledger.shut_down().await;
    }
}

/// The record of an accepted create is never given up: its hold stays HELD until it can be written.
#[tokio::test]
async fn a_record_that_the_database_refuses_is_written_once_it_can_be() {
    let db = TestDatabase::new().await;
    let overdue_at_once = LaneSettings { hold_grace: Duration::ZERO, ..one_lane() };
    let ledger = ledger_with(&db, overdue_at_once).await;
    let (bad, good) = (funded(&db, 100).await, funded(&db, 100).await);
    let mut guard = grant(&ledger, new_hold(bad, 10)).await;
    refuse_rows(&db, "open_task", bad, "XX001").await;
    let answer = within("a bad record", guard.step(run(guard.id()))).await;
    assert!(matches!(answer, Err(StoreError::Database(_))), "{answer:?}");
    let refused = within("a bad reservation", ledger.reserve(new_hold(bad, 10))).await;
    assert!(matches!(refused, Err(StoreError::Database(_))), "{refused:?}");
    within("others", live(&ledger, good)).await;
    // The sweep knows that somebody works on it.
    ledger.sweep(db.database(), HOUR).await.unwrap();
    ledger.step(good, HoldId::generate(), doubt()).await.unwrap();
    assert_eq!(state(db.database(), bad, guard.id()).await, State::Held);
    mend_rows(&db, "open_task").await;
    until("it is recorded", async || state(db.database(), bad, guard.id()).await == State::Running).await;
    assert_eq!(guard.step(settle(10)).await.unwrap(), Applied::Yes);
    drop(within("a mended reservation", grant(&ledger, new_hold(bad, 10))).await);
    ledger.shut_down().await;
    assert_eq!(money(db.database(), bad).await, [90, 0, 10]);
}

/// What is set aside is shown.
#[tokio::test]
async fn a_scrape_shows_what_is_set_aside() {
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let (org, _, key) = key(&db, "a customer", 1_000).await;
    refuse_rows(&db, "entry", org, "XX001").await;
    let gateway = Watched::start(&db, vendor.address, "[ledger]\nlanes = 1\n").await;
    assert_eq!(gateway.scrape().await.value("tollgate_ledger_set_aside"), 0.0);
    gateway.create(&key, &body("its end is refused")).await.task_id();
    until("it is set aside", async || gateway.scrape().await.value("tollgate_ledger_set_aside") == 1.0).await;
    let counted = gateway.scrape().await.value("tollgate_ledger_set_aside_total{call=\"transition\"}");
    assert!(counted >= 1.0, "{counted}");
    gateway.stop().await;
}
