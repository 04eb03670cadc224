//! Drafts of price books: edited by people who see what they edit, and closed to everybody once they have a date.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::pricing::{BookVersion, Tariff, changes};
use tollgate::store::{Acting, Actor, BookState, Database, Slice, StoreError};

use crate::support::database::TestDatabase;
use crate::support::fixture::{HOUR, credits};

const VENDOR: BookVersion = BookVersion::new(1);

fn fixed(amount: i64) -> Tariff {
    Tariff::Fixed { credits: credits(amount) }
}

/// A draft with one price.
async fn draft(db: &Acting) -> BookVersion {
    db.create_book("a draft", None, &BTreeMap::from([("x".to_owned(), fixed(1))])).await.unwrap()
}

async fn price(db: &Database, version: BookVersion, task_type: &str) -> Option<Tariff> {
    db.book(version).await.unwrap().unwrap().prices.get(task_type).copied()
}

#[track_caller]
fn conflict<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Conflict(why)) => why,
        other => panic!("no conflict: {other:?}"),
    }
}

#[tokio::test]
async fn a_draft_is_a_copy_that_is_edited_type_by_type() {
    let db = TestDatabase::new().await;
    let db = db.database();
    let over = BTreeMap::from([("o3-pro-video-edit".to_owned(), fixed(500))]);
    let version = db.create_book(" spring ", Some(VENDOR), &over).await.unwrap();
    let info = db.book_info(version).await.unwrap().unwrap();
    assert_eq!((info.name.as_str(), info.state, info.revision), ("spring", BookState::Draft, 1));

    assert_eq!(db.set_price(version, "new-type", fixed(3), Some(1)).await.unwrap(), 2);
    assert_eq!(db.set_price(version, "std-text-to-video", fixed(9), Some(2)).await.unwrap(), 3);
    assert_eq!(db.remove_price(version, "pro-text-to-video", None).await.unwrap(), 4);
    assert_eq!(db.rename_book(version, "summer", Some(4)).await.unwrap(), 5);
    let books = [db.book(VENDOR).await.unwrap().unwrap(), db.book(version).await.unwrap().unwrap()];
    assert_eq!(books[1].name, "summer");
    let changed = changes(&books[0], &books[1]);
    let types: Vec<&str> = changed.iter().map(|change| &*change.task_type).collect();
    assert_eq!(types, ["new-type", "o3-pro-video-edit", "pro-text-to-video", "std-text-to-video"]);
    assert_eq!((changed[0].before, changed[0].after), (None, Some(fixed(3))));
    assert_eq!((changed[2].before.is_some(), changed[2].after), (true, None));

    db.delete_book(version, Some(5)).await.unwrap();
    assert!(db.book(version).await.unwrap().is_none());
    let gone = db.set_price(version, "x", fixed(1), None).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
}

#[tokio::test]
async fn who_edits_what_he_has_not_seen_is_told() {
    let db = TestDatabase::new().await;
    let db = db.database();
    let version = draft(db).await;
    let edits = join_all(
        (0..10).map(|n| async move { db.set_price(version, &format!("type-{n}"), fixed(5), Some(1)).await }),
    );
    let results = edits.await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for result in results.iter().filter(|result| result.is_err()) {
        assert!(matches!(result, Err(StoreError::Stale { current: 2 })), "{result:?}");
    }
    let stale = |answer: Result<(), StoreError>| matches!(answer, Err(StoreError::Stale { current: 2 }));
    assert!(stale(db.put_in_force(version, None, Some(1)).await), "nor is put in force what was not seen");
    assert!(stale(db.delete_book(version, Some(1)).await));
    assert!(stale(db.unschedule_book(version, Some(3)).await));
}

#[tokio::test]
async fn prices_that_cannot_be_are_refused_and_change_nothing() {
    let db = TestDatabase::new().await;
    let db = db.database();
    let version = draft(db).await;
    let second = Tariff::Second { credits: credits(10), credits_with_audio: None };
    for (task_type, tariff) in [
        ("x", fixed(0)),
        ("x", fixed(-5)),
        ("x", fixed(1_000_000_001)),
        ("o3-std-video-edit", second),
        ("", fixed(1)),
        ("two words", fixed(1)),
        ("a/b", fixed(1)),
        // A vendor that folds case would run the other one.
        ("Pro-text-to-video", fixed(1)),
    ] {
        let refused = db.set_price(version, task_type, tariff, None).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{task_type} {refused:?}");
    }
    assert_eq!(price(db, version, "x").await, Some(fixed(1)));
    assert_eq!(db.book_info(version).await.unwrap().unwrap().revision, 1);
    let none = db.remove_price(version, "y", None).await;
    assert!(matches!(none, Err(StoreError::NotFound(_))), "{none:?}");
    let nameless = db.create_book("  ", None, &BTreeMap::new()).await;
    assert!(matches!(nameless, Err(StoreError::Invalid(_))), "{nameless:?}");
    let copy = db.create_book("x", Some(BookVersion::new(99)), &BTreeMap::new()).await;
    assert!(matches!(copy, Err(StoreError::NotFound(_))), "{copy:?}");
    let empty = db.create_book("empty", None, &BTreeMap::new()).await.unwrap();
    assert!(conflict(db.put_in_force(empty, None, None).await).contains("has no prices"));
}

#[tokio::test]
async fn a_book_with_a_date_cannot_be_edited_not_even_in_sql() {
    let test = TestDatabase::new().await;
    let db = test.database();
    let (scheduled, former) = (draft(db).await, draft(db).await);
    db.put_in_force(scheduled, Some(Clock.wall() + HOUR), None).await.unwrap();
    db.put_in_force(former, None, None).await.unwrap();
    db.put_in_force(VENDOR, None, None).await.unwrap();
    for (version, why) in [(scheduled, "is scheduled"), (former, "was in force"), (VENDOR, "was in force")] {
        assert!(conflict(db.set_price(version, "x", fixed(2), None).await).contains(why));
        assert!(conflict(db.remove_price(version, "x", None).await).contains(why));
        assert!(conflict(db.rename_book(version, "y", None).await).contains(why));
        assert!(conflict(db.delete_book(version, None).await).contains(why));
        for statement in [
            "insert into price (version, task_type, unit, credits) values ($1, 'sql', 'fixed', 1)",
            "update price set credits = 7 where version = $1",
            "update price set version = 77 where version = $1",
            "delete from price where version = $1",
            "update price_book set name = 'sql' where version = $1",
            "delete from price_book where version = $1",
        ] {
            let refused = sqlx::query(statement).bind(version.get()).execute(test.pool()).await;
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("is no draft"), "{statement}: {error}");
        }
    }
    // Nor can a price be moved into such a book.
    let other = draft(db).await;
    let moved = sqlx::query("update price set version = $1, task_type = 'moved' where version = $2")
        .bind(former.get())
        .bind(other.get());
    assert!(moved.execute(test.pool()).await.unwrap_err().to_string().contains("is no draft"));
    // What was only scheduled is a draft again when that is taken back.
    db.unschedule_book(scheduled, None).await.unwrap();
    db.set_price(scheduled, "x", fixed(2), None).await.unwrap();
}

#[tokio::test]
async fn no_edit_slips_into_a_book_that_comes_into_force() {
    let test = TestDatabase::new().await;
    for _ in 0..10 {
        let db = test.database();
        let version = draft(db).await;
        let edits = join_all((2..8).map(|n| db.set_price(version, "x", fixed(n), None)));
        let (edited, activated) = tokio::join!(edits, db.put_in_force(version, None, None));
        activated.unwrap();
        let passed: Vec<i32> = edited.iter().filter_map(|edit| edit.as_ref().ok().copied()).collect();
        for edit in edited.into_iter().filter(Result::is_err) {
            assert!(conflict(edit).contains("was in force"));
        }
        let info = db.book_info(version).await.unwrap().unwrap();
        assert_eq!(info.state, BookState::InForce);
        assert!(passed.iter().all(|revision| *revision < info.revision), "each edit came before it");
    }
}

#[tokio::test]
async fn each_change_is_in_the_audit_log_with_before_and_after() {
    let test = TestDatabase::new().await;
    let actor = Actor { action: None, ..Actor::program("test") };
    let db = test.database().acting(actor);
    let version = draft(&db).await;
    db.set_price(version, "x", fixed(2), None).await.unwrap();
    db.remove_price(version, "x", None).await.unwrap();
    db.set_price(version, "y", fixed(3), None).await.unwrap();
    db.put_in_force(version, Some(Clock.wall() + Duration::from_secs(3600)), None).await.unwrap();
    let lines: Vec<(String, String, Option<Value>, Option<Value>)> =
        sqlx::query_as::<_, (String, String, Option<String>, Option<String>)>(
            "select action, target_id, before::text, after::text from audit_log \
         where actor = 'tollgate:test' and target_kind in ('price', 'price_book') order by audit_id",
        )
        .fetch_all(test.pool())
        .await
        .unwrap()
        .into_iter()
        .map(|(action, id, before, after)| {
            let json = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap());
            (action, id, json(before), json(after))
        })
        .collect();
    let told: Vec<(&str, &str)> = lines.iter().map(|line| (line.0.as_str(), line.1.as_str())).collect();
    let expected = [
        ("price_book.insert", "2"),
        ("price.insert", "2/x"),
        ("price.update", "2/x"),
        ("price.delete", "2/x"),
        ("price.insert", "2/y"),
        ("price_book.update", "2"),
    ];
    assert_eq!(told, expected);
    assert_eq!((&lines[2].2, &lines[2].3), (&Some(json!({"credits": 1})), &Some(json!({"credits": 2}))));
    let history = db.activations(Slice { after: None, limit: 1 }).await.unwrap().remove(0);
    assert_eq!((history.version, history.actor.as_str()), (version, "tollgate:test"));
}
