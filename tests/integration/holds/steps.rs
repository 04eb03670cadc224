//! The life of a task in the ledger: what each step does to the balance, and that a task ends exactly once.

use sqlx::PgPool;
use tollgate::credits::PriceFactor;
use tollgate::ids::{HoldId, OrgId};
use tollgate::store::{Applied, Ledger, NewHold, OrgChange, State, Step, StepKind, StoreError, Verdict};

use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{
    credits, doubt, fail, funded, grant, late_fail, late_settle, ledger, money, new_hold, refuse, run,
    run_as, settle, state, with_key, write_off,
};

const STATES: [State; 6] =
    [State::Held, State::Running, State::InDoubt, State::Settled, State::Released, State::WrittenOff];

async fn row(pool: &PgPool, hold: HoldId) -> String {
    sqlx::query_scalar("select h::text from task h where hold_id = $1")
        .bind(hold.as_uuid())
        .fetch_one(pool)
        .await
        .unwrap()
}

/// `(kind, amount, overrun)` of all entries that are not grants.
async fn charges(pool: &PgPool, org: OrgId) -> Vec<(String, i64, i64)> {
    sqlx::query_as(
        "select kind, amount, overrun from entry where org_id = $1 and kind not in ('grant', 'adjust')",
    )
    .bind(org.as_uuid())
    .fetch_all(pool)
    .await
    .unwrap()
}

/// `(amount, possible)` of what the platform lost.
async fn losses(pool: &PgPool, org: OrgId) -> Vec<(i64, bool)> {
    sqlx::query_as("select amount, possible from platform_loss where org_id = $1")
        .bind(org.as_uuid())
        .fetch_all(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_success_is_charged_and_the_rest_of_the_hold_returns() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let mut guard = grant(&ledger, new_hold(org, 400)).await;
    assert_eq!(guard.available(), credits(600));
    assert_eq!(money(db.database(), org).await, [600, 400, 0]);
    assert_eq!(guard.step(run(guard.id())).await.unwrap(), Applied::Yes);
    assert_eq!(money(db.database(), org).await, [600, 400, 0]);
    assert_eq!(guard.step(settle(300)).await.unwrap(), Applied::Yes);
    assert_eq!(money(db.database(), org).await, [700, 0, 300]);
    assert_eq!(charges(db.pool(), org).await, [("consume".into(), -300, 0)]);
    let task = db.database().task_by_upstream_id(org, &guard.id().to_string()).await.unwrap().unwrap();
    assert_eq!((task.state, task.charged), (State::Settled, Some(credits(300))));
}

#[tokio::test]
async fn a_task_that_costs_nothing_still_has_its_entry() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 400).await);
    let mut guard = grant(&ledger, new_hold(org, 400)).await;
    guard.step(run(guard.id())).await.unwrap();
    guard.step(settle(0)).await.unwrap();
    assert_eq!(money(db.database(), org).await, [400, 0, 0]);
    assert_eq!(charges(db.pool(), org).await, [("consume".into(), 0, 0)]);
}

#[tokio::test]
async fn an_overrun_is_charged_in_full_and_marked_and_may_go_below_zero() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 500).await);
    let mut guard = grant(&ledger, new_hold(org, 500)).await;
    guard.step(run(guard.id())).await.unwrap();
    assert_eq!(guard.step(settle(620)).await.unwrap(), Applied::Yes);
    assert_eq!(money(db.database(), org).await, [-120, 0, 620]);
    assert_eq!(charges(db.pool(), org).await, [("consume".into(), -620, 120)]);
    assert!(
        matches!(ledger.reserve(new_hold(org, 1)).await.unwrap(), Verdict::Insufficient { available } if available == credits(-120))
    );
}

#[tokio::test]
async fn hold_and_charge_follow_the_price_factor_the_hold_was_made_with() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let factor = PriceFactor::new(8_333).unwrap();
    let mut guard = grant(&ledger, NewHold { factor, amount: credits(334), ..new_hold(org, 400) }).await;
    let cheaper = OrgChange { price_factor: PriceFactor::new(1), ..OrgChange::default() };
    db.database().update_org(org, cheaper, None).await.unwrap();
    guard.step(run(guard.id())).await.unwrap();
    let task = db.database().task_by_hold(org, guard.id()).await.unwrap().unwrap();
    assert_eq!((task.factor, task.list_price, task.amount), (factor, credits(400), credits(334)));
    let charge = factor.apply(credits(361)).unwrap();
    guard
        .step(Step::Settle {
            task: None,
            raw: credits(361),
            reported: Some(credits(361)),
            charge,
            flag: None,
        })
        .await
        .unwrap();
    assert_eq!(money(db.database(), org).await, [1000 - 301, 0, 301]);
}

#[tokio::test]
async fn whoever_does_not_get_a_video_does_not_pay() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    // Failed upstream, which kept 25; refused, perhaps not for free; never answered.
    for (steps, lost) in [
        (vec![run(HoldId::generate()), fail(25)], vec![(25, false)]),
        (vec![run(HoldId::generate()), fail(0)], vec![]),
        (vec![refuse()], vec![]),
        (vec![Step::Refuse { reason: "it says 500", possible_loss: credits(400) }], vec![(400, true)]),
        (vec![doubt(), write_off(400)], vec![(400, true)]),
    ] {
        let before = losses(db.pool(), org).await.len();
        let mut guard = grant(&ledger, new_hold(org, 400)).await;
        for step in steps {
            assert_eq!(money(db.database(), org).await, [600, 400, 0]);
            assert_eq!(guard.step(step).await.unwrap(), Applied::Yes);
        }
        assert_eq!(money(db.database(), org).await, [1000, 0, 0]);
        assert_eq!(losses(db.pool(), org).await[before..], lost);
    }
    assert!(charges(db.pool(), org).await.is_empty());
}

/// A hold of 400 in that state.
async fn hold_in(state: State, ledger: &Ledger, org: OrgId) -> HoldId {
    let mut guard = grant(ledger, new_hold(org, 400)).await;
    let steps = match state {
        State::Held => vec![],
        State::Running => vec![run(guard.id())],
        State::InDoubt => vec![doubt()],
        State::Settled => vec![run(guard.id()), settle(300)],
        State::Released => vec![refuse()],
        State::WrittenOff => vec![doubt(), write_off(400)],
    };
    let hold = guard.id();
    for step in steps {
        assert_eq!(guard.step(step).await.unwrap(), Applied::Yes);
    }
    // Its guard would release it.
    std::mem::forget(guard);
    hold
}

/// The contract's diagram, cell by cell: from each state each step does what it may, or nothing at all.
#[tokio::test]
async fn a_step_moves_a_hold_only_along_the_contracts_diagram() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    for from in STATES {
        let steps = [
            run(HoldId::generate()),
            settle(300),
            fail(7),
            refuse(),
            Step::Abandon,
            Step::Sweep,
            doubt(),
            write_off(400),
            late_settle(300),
            late_fail(7),
            Step::LateDrop,
        ];
        for step in steps {
            let to = match (from, step.kind()) {
                (State::Held | State::InDoubt, StepKind::Run) => Some(State::Running),
                (State::Running | State::InDoubt, StepKind::Settle) => Some(State::Settled),
                (State::Running | State::InDoubt, StepKind::Fail) => Some(State::Released),
                (State::Held | State::InDoubt, StepKind::Refuse) => Some(State::Released),
                (State::Held | State::InDoubt, StepKind::Abandon) => Some(State::Released),
                (State::Held, StepKind::Sweep) => Some(State::Released),
                (State::Held | State::Running, StepKind::Doubt) => Some(State::InDoubt),
                (State::InDoubt, StepKind::WriteOff) => Some(State::WrittenOff),
                _ => None,
            };
            let case = format!("{} from {from:?}", step.kind());
            let org = funded(&db, 1000).await;
            let hold = hold_in(from, &ledger, org).await;
            let (before, row_before) = (money(db.database(), org).await, row(db.pool(), hold).await);
            let losses_before = losses(db.pool(), org).await;
            let applied = ledger.step(org, hold, step).await.unwrap();
            let after = money(db.database(), org).await;
            if let Some(to) = to {
                assert_eq!(applied, Applied::Yes, "{case}");
                assert_eq!(state(db.database(), org, hold).await, to, "{case}");
                let expected = match to {
                    State::Held | State::Running | State::InDoubt => [600, 400, 0],
                    State::Settled => [700, 0, 300],
                    State::Released | State::WrittenOff => [1000, 0, 0],
                };
                assert_eq!(after, expected, "{case}");
            } else {
                assert_eq!(applied, Applied::No, "{case}");
                assert_eq!(after, before, "{case}");
                assert_eq!(row(db.pool(), hold).await, row_before, "{case}");
                assert_eq!(losses(db.pool(), org).await, losses_before, "{case}");
            }
            let balance = db.database().balance(org).await.unwrap().unwrap();
            let now = to.unwrap_or(from);
            assert_eq!(balance.open_tasks, i32::from(matches!(now, State::Held | State::Running)), "{case}");
            assert_eq!(balance.in_doubt, i32::from(now == State::InDoubt), "{case}");
        }
    }
}

#[tokio::test]
async fn of_many_attempts_to_end_a_task_at_once_one_succeeds() {
    let db = TestDatabase::new().await;
    let gateways = [ledger(&db).await, ledger(&db).await, ledger(&db).await];
    let org = funded(&db, 4000).await;
    for _ in 0..10 {
        let hold = hold_in(State::Running, &gateways[0], org).await;
        let before = money(db.database(), org).await[0];
        let attempts = (0..30).map(|n| {
            let step = [settle(300), fail(0), settle(200)][n % 3].clone();
            gateways[n % 2].step(org, hold, step)
        });
        let applied = futures_util::future::try_join_all(attempts).await.unwrap();
        assert_eq!(applied.iter().filter(|applied| **applied == Applied::Yes).count(), 1);
        assert!([100, 200, 400].contains(&(money(db.database(), org).await[0] - before)));
    }
}

#[tokio::test]
async fn steps_of_one_hold_are_taken_in_the_order_they_were_queued() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    for _ in 0..20 {
        let mut guard = grant(&ledger, new_hold(org, 10)).await;
        let steps = [doubt(), run(guard.id()), doubt(), settle(10), fail(0)];
        let answers = steps.map(|step| guard.queue(step));
        let mut applied = Vec::new();
        for answer in answers {
            applied.push(answer.await.unwrap().unwrap() == Applied::Yes);
        }
        assert_eq!(applied, [true, true, true, true, false]);
    }
    assert_eq!(money(db.database(), org).await, [800, 0, 200]);
}

#[tokio::test]
async fn a_step_for_an_unknown_hold_or_a_foreign_organisation_does_nothing() {
    let db = TestDatabase::new().await;
    let (ledger, org, other) = (ledger(&db).await, funded(&db, 1000).await, funded(&db, 1000).await);
    let hold = hold_in(State::Running, &ledger, org).await;
    assert_eq!(ledger.step(org, HoldId::generate(), settle(1)).await.unwrap(), Applied::No);
    assert_eq!(ledger.step(other, hold, settle(1)).await.unwrap(), Applied::No);
    assert_eq!(ledger.step(OrgId::generate(), hold, settle(1)).await.unwrap(), Applied::No);
    assert_eq!(money(db.database(), org).await, [600, 400, 0]);
    assert_eq!(money(db.database(), other).await, [1000, 0, 0]);
}

#[tokio::test]
async fn a_dropped_guard_releases_what_was_not_sent_and_doubts_what_may_have_been() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let unsent = grant(&ledger, with_key(org, 100, "again")).await;
    let mut sent = grant(&ledger, new_hold(org, 100)).await;
    sent.about_to_send();
    let (unsent_id, sent_id) = (unsent.id(), sent.id());
    drop((unsent, sent));
    until("both holds have moved", async || {
        state(db.database(), org, unsent_id).await == State::Released
            && state(db.database(), org, sent_id).await == State::InDoubt
    })
    .await;
    assert_eq!(money(db.database(), org).await, [900, 100, 0]);
    assert!(db.database().claim(org, "again").await.unwrap().is_none());
}

#[tokio::test]
async fn a_panicking_owner_leaves_an_honest_end() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 100).await);
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    let hold = guard.id();
    guard.about_to_send();
    let mut owner = tokio::task::JoinSet::new();
    owner.spawn(async move {
        let _guard = guard;
        panic!("on purpose");
    });
    assert!(owner.join_next().await.unwrap().is_err());
    until("the hold is in doubt", async || state(db.database(), org, hold).await == State::InDoubt).await;
}

#[tokio::test]
async fn two_creates_with_one_upstream_task_leave_the_second_in_doubt() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let (org, other) = (funded(&db, 1000).await, funded(&db, 1000).await);
    let mut first = grant(&ledger, new_hold(org, 400)).await;
    let mut second = grant(&ledger, new_hold(other, 400)).await;
    let mut elsewhere = grant(&ledger, NewHold { account: "other".into(), ..new_hold(org, 100) }).await;
    assert_eq!(first.step(run_as("n75")).await.unwrap(), Applied::Yes);
    assert_eq!(second.step(run_as("n75")).await.unwrap(), Applied::DuplicateTask);
    assert_eq!(elsewhere.step(run_as("n75")).await.unwrap(), Applied::Yes, "ids are unique in an account");
    assert_eq!(state(db.database(), org, first.id()).await, State::Running);
    let doubted = db.database().task_by_hold(other, second.id()).await.unwrap().unwrap();
    assert_eq!((doubted.state, doubted.upstream_task), (State::InDoubt, None));
    assert!(db.database().task_by_upstream_id(other, "n75").await.unwrap().is_none(), "not shown");
    assert_eq!(money(db.database(), other).await, [600, 400, 0]);
}

/// The others in the batch of a bad step are not held up by it.
#[tokio::test]
async fn an_answer_the_database_cannot_store_leaves_its_hold_in_doubt_and_stops_nobody() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    // Too long for the index even when compressed; not storable as text at all.
    let long: String = std::iter::repeat_with(|| HoldId::generate().to_string()).take(300).collect();
    for task in [long.as_str(), "nul\0nul"] {
        let mut bad = grant(&ledger, new_hold(org, 100)).await;
        let mut good = grant(&ledger, new_hold(org, 100)).await;
        let bad_run = bad.queue(run_as(task));
        let good_run = good.queue(run(good.id()));
        assert_eq!(good_run.await.unwrap().unwrap(), Applied::Yes);
        assert!(matches!(bad_run.await.unwrap(), Err(StoreError::Refused(_))));
        assert_eq!(state(db.database(), org, bad.id()).await, State::InDoubt);
        assert_eq!(state(db.database(), org, good.id()).await, State::Running);
    }
}

#[tokio::test]
async fn what_is_queued_is_finished_before_the_lanes_end() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 10_000).await);
    let mut answers = Vec::new();
    for _ in 0..50 {
        let mut guard = grant(&ledger, new_hold(org, 10)).await;
        answers.push((guard.queue(run(guard.id())), guard.queue(settle(10))));
    }
    ledger.shut_down().await;
    for (run, settle) in answers {
        assert_eq!(run.await.unwrap().unwrap(), Applied::Yes);
        assert_eq!(settle.await.unwrap().unwrap(), Applied::Yes);
    }
    assert_eq!(money(db.database(), org).await, [9500, 0, 500]);
    assert!(matches!(ledger.reserve(new_hold(org, 1)).await, Err(StoreError::ShuttingDown)));
    assert!(matches!(ledger.step(org, HoldId::generate(), settle(1)).await, Err(StoreError::ShuttingDown)));
}
