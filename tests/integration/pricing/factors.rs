//! Price factors with a validity: begin and end at their instants, for callers that are known already.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use tollgate::clock::Clock;
use tollgate::credits::PriceFactor;
use tollgate::ids::{FactorId, OrgId};
use tollgate::store::{OrgChange, Slice, StoreError};

use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{HOUR, funded};
use crate::support::gateway::{Answer, TestGateway, body};

fn factor(basis_points: i32) -> PriceFactor {
    PriceFactor::new(basis_points).unwrap()
}

#[track_caller]
fn conflict<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Conflict(why)) => why,
        other => panic!("no conflict: {other:?}"),
    }
}

async fn quoted(gateway: &TestGateway) -> i64 {
    let call = gateway.call(Method::POST, "/api/quote").body(body("x").to_string());
    Answer::to(call).await.data()["credits"].as_i64().unwrap()
}

/// Makes a factor with a validity that begins soon, and quotes until it is over: at 440, while it is valid at 201. The
/// price of a create in between, unless its time was too short.
async fn cheap(gateway: &TestGateway, length: Duration) -> Option<i64> {
    let (db, org) = (gateway.db.database(), gateway.caller.org);
    let from = db.clock().await.unwrap() + length.mul_f64(0.9);
    let end = from + length;
    db.create_price_factor(org, factor(5_001), Some(from), Some(end), "a promotion").await.ok()?;
    // Clocks are compared over a connection that takes its time: the longer it takes, the less is known.
    let mut about = Duration::from_millis(100);
    let mut seen = None;
    until("it is over", async || {
        let asked = Clock.now();
        let before = db.clock().await.unwrap();
        about = about.max(Duration::from_millis(100) + Clock.since(asked) * 2);
        let price = quoted(gateway).await;
        let after = db.clock().await.unwrap();
        if after < from - about || before > end + about {
            assert_eq!(price, 440);
        } else if before > from + about && after < end - about {
            assert_eq!(price, 201, "400 × 0.5001, rounded up");
            if seen.is_none() {
                let created = gateway.create(&body("cheap")).await.data()["consumed_credits"].as_i64();
                let in_time = db.clock().await.unwrap() < end - about;
                seen = created.filter(|_| in_time);
            }
        }
        before > end + about
    })
    .await;
    seen
}

#[tokio::test]
async fn a_factor_begins_and_ends_at_its_instants() {
    let gateway = TestGateway::start().await;
    let (db, org) = (gateway.db.database(), gateway.caller.org);
    let another = gateway.another_org("another", 1000).await;
    let usual = OrgChange { price_factor: Some(factor(11_000)), ..OrgChange::default() };
    db.update_org(org, usual, None).await.unwrap();
    until("the usual factor", async || quoted(&gateway).await == 440).await;
    let mut seen = None;
    // What a busy machine cannot be shown in a second it is shown in more.
    for length in [1, 4, 16].map(Duration::from_secs) {
        seen = cheap(&gateway, length).await;
        if seen.is_some() {
            break;
        }
    }
    assert_eq!(seen, Some(201), "the price of a create while the factor is in force");
    let last = "select factor_bp, amount from task order by created_at desc limit 1";
    let hold: (i32, i64) = sqlx::query_as(last).fetch_one(gateway.db.pool()).await.unwrap();
    assert_eq!(hold, (5_001, 201));
    let call = gateway.request(Method::POST, "/api/quote").bearer_auth(&another.text);
    assert_eq!(Answer::to(call.body(body("x").to_string())).await.data()["credits"], 400);
}

#[tokio::test]
async fn a_factor_from_now_on_ends_when_it_is_ended() {
    let gateway = TestGateway::start().await;
    let (db, org) = (gateway.db.database(), gateway.caller.org);
    let id = db.create_price_factor(org, factor(20_000), None, None, "a contract").await.unwrap();
    until("it is in force", async || quoted(&gateway).await == 800).await;
    let shown = db.price_factor(org, id).await.unwrap().unwrap();
    assert_eq!((shown.active, shown.version, shown.reason.as_str()), (true, 1, "a contract"));
    let stale = db.end_price_factor(org, id, None, Some(2)).await;
    assert!(matches!(stale, Err(StoreError::Stale { current: 1 })), "{stale:?}");
    db.end_price_factor(org, id, None, Some(1)).await.unwrap();
    until("it has ended", async || quoted(&gateway).await == 400).await;
    assert!(conflict(db.end_price_factor(org, id, None, None).await).contains("ends earlier"));
    let shown = db.price_factors(org, Slice { after: None, limit: 10 }).await.unwrap();
    assert_eq!((shown.len(), shown[0].active), (1, false), "what was in force stays on record");
}

#[tokio::test]
async fn no_two_factors_of_an_organisation_are_valid_at_once() {
    let test = TestDatabase::new().await;
    let (db, org) = (test.database(), funded(&test, 0).await);
    let hours = |from: u32, to: u32| {
        let now = Clock.wall();
        (Some(now + HOUR * from), Some(now + HOUR * to))
    };
    let (from, to) = hours(2, 4);
    let all = join_all((0..8).map(|n| db.create_price_factor(org, factor(n), from, to, "one of many"))).await;
    let made: Vec<FactorId> = all.iter().filter_map(|one| one.as_ref().ok().copied()).collect();
    assert_eq!(made.len(), 1, "{all:?}");
    for refused in all.into_iter().filter(Result::is_err) {
        assert!(conflict(refused).contains(&made[0].to_string()));
    }
    let create =
        |(from, until): (Option<_>, Option<_>)| db.create_price_factor(org, factor(1), from, until, "x");
    conflict(create(hours(1, 3)).await);
    conflict(create(hours(3, 9)).await);
    conflict(create((None, None)).await);
    create((from.map(|at| at - HOUR), from)).await.unwrap();
    create((to, None)).await.unwrap();
    let other = funded(&test, 0).await;
    db.create_price_factor(other, factor(1), from, to, "another's").await.unwrap();

    // One that has not begun is taken back, and its time is free.
    db.end_price_factor(org, made[0], None, None).await.unwrap();
    assert!(db.price_factor(org, made[0]).await.unwrap().is_none());
    create((from, to)).await.unwrap();
}

#[tokio::test]
async fn what_a_factor_cannot_be_is_refused() {
    let test = TestDatabase::new().await;
    let (db, org) = (test.database(), funded(&test, 0).await);
    let now = Clock.wall();
    for (from, until, reason) in [
        (Some(now - HOUR), None, "in the past"),
        (Some(now + HOUR), Some(now + HOUR), "no time at all"),
        (None, Some(now - HOUR), "ended before it began"),
        (None, None, "  "),
    ] {
        let refused = db.create_price_factor(org, factor(1), from, until, reason).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{reason}: {refused:?}");
    }
    let nobody = db.create_price_factor(OrgId::generate(), factor(1), None, None, "x").await;
    assert!(matches!(nobody, Err(StoreError::NotFound(_))), "{nobody:?}");
    let id = db.create_price_factor(org, factor(1), None, None, "x").await.unwrap();
    let past = db.end_price_factor(org, id, Some(now - HOUR), None).await;
    assert!(matches!(past, Err(StoreError::Invalid(_))), "{past:?}");
    let foreign = db.end_price_factor(funded(&test, 0).await, id, None, None).await;
    assert!(matches!(foreign, Err(StoreError::NotFound(_))), "{foreign:?}");
}
