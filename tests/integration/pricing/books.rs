//! Price books: imported as drafts, put in force from an instant, and then never edited.

use std::collections::BTreeMap;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::pricing::{BookVersion, Tariff};
use tollgate::store::StoreError;

use crate::support::database::TestDatabase;
use crate::support::fixture::credits;

fn second(without: i64, with: Option<i64>) -> Tariff {
    Tariff::Second { credits: credits(without), credits_with_audio: with.map(credits) }
}

fn fixed(amount: i64) -> Tariff {
    Tariff::Fixed { credits: credits(amount) }
}

fn book<const N: usize>(prices: [(&str, Tariff); N]) -> BTreeMap<String, Tariff> {
    prices.map(|(name, tariff)| (name.into(), tariff)).into()
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(StoreError::Invalid(why) | StoreError::NotFound(why)) => why,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn the_vendors_list_is_in_force_from_the_beginning() {
    let db = TestDatabase::new().await;
    let active = db.database().active_book_version().await.unwrap().unwrap();
    let list = db.database().book(active).await.unwrap().unwrap();
    assert_eq!((list.name.as_str(), list.prices.len()), ("vendor list", 12));
    assert_eq!(list.prices["pro-text-to-video"], second(54, Some(80)));
    assert_eq!(list.prices["o3-std-reference-to-video"], second(20, None));
    assert_eq!(list.prices["o3-pro-video-edit"], fixed(435));
}

#[tokio::test]
async fn a_draft_comes_into_force_when_it_is_activated_and_the_former_can_come_back() {
    let db = TestDatabase::new().await;
    let first = db.database().active_book_version().await.unwrap().unwrap();
    let prices = book([("pro-text-to-video", second(60, Some(90))), ("o3-pro-video-edit", fixed(500))]);
    let draft = db.database().create_book("autumn", None, &prices).await.unwrap();
    assert_eq!(db.database().active_book_version().await.unwrap(), Some(first), "a draft prices nothing");
    let stored = db.database().book(draft).await.unwrap().unwrap();
    let expected: BTreeMap<_, _> = prices.into_iter().map(|(name, tariff)| (name.into(), tariff)).collect();
    assert_eq!((stored.version, stored.name.as_str(), stored.prices), (draft, "autumn", expected));

    let before = db.database().epochs().await.unwrap();
    db.database().put_in_force(draft, None, None).await.unwrap();
    assert_eq!(db.database().active_book_version().await.unwrap(), Some(draft));
    assert!(db.database().epochs().await.unwrap().prices > before.prices, "gateways are told");
    db.database().put_in_force(first, None, None).await.unwrap();
    assert_eq!(db.database().active_book_version().await.unwrap(), Some(first));
}

#[tokio::test]
async fn a_book_for_later_is_not_in_force_yet() {
    let db = TestDatabase::new().await;
    let first = db.database().active_book_version().await.unwrap();
    let later = db.database().create_book("later", None, &book([("x", fixed(1))])).await.unwrap();
    db.database().put_in_force(later, Some(Clock.wall() + Duration::from_secs(3600)), None).await.unwrap();
    assert_eq!(db.database().active_book_version().await.unwrap(), first);
    let shown: Vec<_> = db
        .database()
        .books()
        .await
        .unwrap()
        .into_iter()
        .map(|b| (b.version, b.active, b.effective_from.is_some()))
        .collect();
    assert!(
        shown.contains(&(later, false, true)) && shown.contains(&(first.unwrap(), true, true)),
        "{shown:?}"
    );
}

#[tokio::test]
async fn a_book_that_cannot_price_is_refused_with_the_reason_and_leaves_nothing() {
    let db = TestDatabase::new().await;
    for (prices, why) in [
        (book([("ok", fixed(1)), ("free", fixed(0))]), "free: a price must be from 1"),
        (book([("debt", second(-1, None))]), "debt: a price must be from 1"),
        (book([("loud", second(1, Some(0)))]), "loud: a price must be from 1"),
        (book([("dear", fixed(1_000_000_001))]), "dear: a price must be from 1"),
        (book([("o3-pro-video-edit", second(10, None))]), "its unit must be 'fixed'"),
    ] {
        let refused = refusal(db.database().create_book("bad", None, &prices).await);
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(db.database().books().await.unwrap().len(), 1);
    let nowhere = BookVersion::new(99);
    assert!(refusal(db.database().put_in_force(nowhere, None, None).await).contains("no price book 99"));
    assert!(db.database().book(nowhere).await.unwrap().is_none());
}
