//! What is in force, what was and what will be: a history that only grows, and that older gateways read the same.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use reqwest::Method;
use time::OffsetDateTime;
use tollgate::clock::Clock;
use tollgate::pricing::{BookVersion, Tariff};
use tollgate::store::{Acting, BookState, Slice, StoreError};

use crate::support::database::{TestDatabase, soon, until};
use crate::support::fixture::{HOUR, credits};
use crate::support::gateway::{Answer, TestGateway, body};

const VENDOR: BookVersion = BookVersion::new(1);
const FIRST: Slice<i64> = Slice { after: None, limit: 100 };

async fn book(db: &Acting, price: i64) -> BookVersion {
    let prices =
        BTreeMap::from([("pro-text-to-video".to_owned(), Tariff::Fixed { credits: credits(price) })]);
    db.create_book("a book", None, &prices).await.unwrap()
}

/// The query of every gateway that does not know the history.
async fn as_older_gateways_see_it(test: &TestDatabase) -> i32 {
    sqlx::query_scalar(
        "select version from price_book where effective_from <= now() order by effective_from desc, version desc limit 1",
    )
    .fetch_one(test.pool())
    .await
    .unwrap()
}

async fn in_force(test: &TestDatabase) -> BookVersion {
    let ours = test.database().active_book_version().await.unwrap().unwrap();
    assert_eq!(as_older_gateways_see_it(test).await, ours.get());
    ours
}

#[track_caller]
fn conflict<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Conflict(why)) => why,
        other => panic!("no conflict: {other:?}"),
    }
}

#[tokio::test]
async fn a_roll_back_puts_the_former_book_in_force_again() {
    let test = TestDatabase::new().await;
    let db = test.database();
    assert!(conflict(db.roll_back_book(None).await).contains("no other price book was in force"));
    let [second, third] = [book(db, 2).await, book(db, 3).await];
    for version in [second, third] {
        db.put_in_force(version, None, None).await.unwrap();
        assert_eq!(in_force(&test).await, version);
    }
    assert!(conflict(db.roll_back_book(Some(second)).await).contains("in force is 3 now"));
    assert_eq!(db.roll_back_book(Some(third)).await.unwrap(), second);
    assert_eq!(in_force(&test).await, second);
    assert_eq!(db.roll_back_book(None).await.unwrap(), third, "a roll-back is rolled back");
    assert_eq!(in_force(&test).await, third);
    // Saying again what is so already writes no history.
    db.put_in_force(third, None, None).await.unwrap();
    let history = db.activations(FIRST).await.unwrap();
    let versions: Vec<i32> = history.iter().map(|line| line.version.get()).collect();
    assert_eq!(versions, [3, 2, 3, 2, 1]);
    assert!(history.windows(2).all(|pair| pair[0].effective_from > pair[1].effective_from));
    let page = db.activations(Slice { after: Some(history[1].activation_id), limit: 2 }).await.unwrap();
    assert_eq!(page, history[2..4]);
}

#[tokio::test]
async fn a_schedule_can_be_moved_and_taken_back_until_its_instant() {
    let test = TestDatabase::new().await;
    let db = test.database();
    let later = book(db, 2).await;
    let state = async || db.book_info(later).await.unwrap().unwrap().state;
    db.put_in_force(later, Some(Clock.wall() + HOUR), None).await.unwrap();
    assert_eq!((in_force(&test).await, state().await), (VENDOR, BookState::Scheduled));
    db.put_in_force(later, Some(Clock.wall() + HOUR * 2), None).await.unwrap();
    db.unschedule_book(later, None).await.unwrap();
    assert_eq!((in_force(&test).await, state().await), (VENDOR, BookState::Draft));
    assert!(conflict(db.unschedule_book(later, None).await).contains("is not scheduled"));
    assert!(conflict(db.unschedule_book(VENDOR, None).await).contains("is not scheduled"));
    let history = db.activations(FIRST).await.unwrap();
    let withdrawn: Vec<bool> = history.iter().map(|line| line.withdrawn_at.is_some()).collect();
    assert_eq!(withdrawn, [true, true, false], "what was planned is on record");

    let past = db.put_in_force(later, Some(Clock.wall() - HOUR), None).await;
    assert!(matches!(past, Err(StoreError::Invalid(_))), "{past:?}");
    let at = (Clock.wall() + HOUR).replace_nanosecond(0).unwrap();
    db.put_in_force(later, Some(at), None).await.unwrap();
    let other = book(db, 3).await;
    assert!(conflict(db.put_in_force(other, Some(at), None).await).contains("at that very instant"));
    // Older gateways know one instant a book: one that is or was in force cannot have another ahead.
    let again = db.put_in_force(VENDOR, Some(Clock.wall() + HOUR), None).await;
    assert!(conflict(again).contains("schedule a copy"));
    // A scheduled book may also come at once.
    db.put_in_force(later, None, None).await.unwrap();
    assert_eq!((in_force(&test).await, state().await), (later, BookState::InForce));
}

#[tokio::test]
async fn what_was_in_force_cannot_be_denied_in_sql() {
    let test = TestDatabase::new().await;
    let db = test.database();
    db.put_in_force(book(db, 2).await, Some(Clock.wall() + HOUR), None).await.unwrap();
    for statement in [
        "delete from price_activation",
        "update price_activation set version = 2",
        "update price_activation set effective_from = effective_from + interval '1 s' where version = 2",
        "update price_activation set withdrawn_at = '2025-01-01' where version = 1",
        "truncate price_activation",
        "update price_book set effective_from = null where version = 1",
        "update price_book set effective_from = now() + interval '1 h' where version = 1",
    ] {
        let refused = sqlx::query(statement).execute(test.pool()).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("append-only") || error.contains("was in force"), "{statement}: {error}");
    }
    // An older program's way to activate is part of the history too.
    sqlx::query("update price_book set effective_from = now() where version = 2")
        .execute(test.pool())
        .await
        .unwrap();
    assert_eq!(in_force(&test).await.get(), 2);
    let history = db.activations(FIRST).await.unwrap();
    let shown: Vec<(i32, bool)> =
        history.iter().map(|line| (line.version.get(), line.withdrawn_at.is_some())).collect();
    assert_eq!(shown, [(2, false), (2, true), (1, false)]);
}

#[tokio::test]
async fn whatever_is_done_older_gateways_price_by_the_same_book() {
    let test = TestDatabase::new().await;
    let db = test.database();
    let mut books = vec![VENDOR];
    for _ in 0..80 {
        let any = books[rand::random_range(0..books.len())];
        let soon = Clock.wall() + Duration::from_millis(rand::random_range(5..40));
        let done = match rand::rng().random_range(0..6) {
            0 | 1 => {
                books.push(book(db, 5).await);
                Ok(())
            }
            2 => db.put_in_force(any, Some(soon), None).await,
            3 => db.unschedule_book(any, None).await,
            4 => db.put_in_force(any, None, None).await,
            _ => db.roll_back_book(None).await.map(drop),
        };
        assert!(matches!(done, Ok(()) | Err(StoreError::Conflict(_) | StoreError::Invalid(_))), "{done:?}");
        let both: (i32, i32) = sqlx::query_as(
            "select (select version from price_book where effective_from <= now() \
                     order by effective_from desc, version desc limit 1), \
                    (select version from price_activation where withdrawn_at is null and effective_from <= now() \
                     order by effective_from desc, activation_id desc limit 1)",
        )
        .fetch_one(test.pool())
        .await
        .unwrap();
        assert_eq!(both.0, both.1);
    }
}

#[tokio::test]
async fn of_many_activations_at_once_all_are_on_record_and_the_last_is_in_force() {
    let test = TestDatabase::new().await;
    let db = test.database();
    let books = join_all((0..8).map(|n| book(db, n + 1))).await;
    for result in join_all(books.iter().map(|version| db.put_in_force(*version, None, None))).await {
        result.unwrap();
    }
    let history = db.activations(FIRST).await.unwrap();
    assert_eq!(history.len(), 9);
    assert!(history.windows(2).all(|pair| pair[0].effective_from > pair[1].effective_from));
    assert_eq!(in_force(&test).await, history[0].version);
}

async fn quoted(gateway: &TestGateway) -> i64 {
    let call = gateway.call(Method::POST, "/api/quote").body(body("x").to_string());
    Answer::to(call).await.data()["credits"].as_i64().unwrap()
}

/// Clocks are compared over a connection that takes its time: the longer it takes, the less is known.
const ABOUT: Duration = Duration::from_millis(100);

/// Quotes until `at` is over. Every quote that was asked for and answered on one side of `at`, by the database's clock, must
/// have had the price of that side; tells of one that had not.
async fn switches(gateway: &TestGateway, at: OffsetDateTime, old: i64, new: i64) -> Result<(), String> {
    let db = gateway.db.database();
    let (mut about, mut result) = (ABOUT, Ok(()));
    until("the price has changed", async || {
        let asked = Clock.now();
        let before = db.clock().await.unwrap();
        about = about.max(ABOUT + Clock.since(asked) * 2);
        let price = quoted(gateway).await;
        let after = db.clock().await.unwrap();
        assert!(price == old || price == new, "{price}");
        if after <= at - about && price != old {
            result = Err(format!("{price} at {after}, before {at}"));
        }
        if before >= at + about && price != new {
            result = Err(format!("{price} at {before}, after {at}"));
        }
        before > at + about || result.is_err()
    })
    .await;
    result
}

#[tokio::test]
async fn a_scheduled_book_begins_at_its_instant_though_nothing_happens_then() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let (mut old, mut results) = (400, Vec::new());
    // A gateway on a busy machine may not have read of it in time: then it gets more time.
    for lead in [1, 4, 16].map(Duration::from_secs) {
        let (first, second) = (book(db, 7).await, book(db, 9).await);
        let now = db.clock().await.unwrap();
        // Not at the same part of a second, at which gateways look.
        let one = now + lead + Duration::from_millis(300);
        let two = one + Duration::from_millis(750);
        db.put_in_force(second, Some(two), None).await.unwrap();
        db.put_in_force(first, Some(one), None).await.unwrap();
        let mut result = switches(&gateway, one, old, 7).await;
        if result.is_ok() {
            result = switches(&gateway, two, 7, 9).await;
        }
        until("the second book is in force", async || quoted(&gateway).await == 9).await;
        old = 9;
        let done = result.is_ok();
        results.push(result);
        if !done {
            continue;
        }
        // At once, by the notification.
        db.roll_back_book(Some(second)).await.unwrap();
        soon("the former book is back", async || quoted(&gateway).await == 7).await;
        assert_eq!(gateway.create(&body("x")).await.data()["consumed_credits"], 7);
        assert_eq!(gateway.last_hold().await.price_book, first.get());
        return;
    }
    panic!("{results:?}");
}
