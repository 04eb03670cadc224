//! Grants and adjustments: posted once, never below what is allowed, never edited.

use tollgate::ids::OrgId;
use tollgate::store::{Done, Once, OrgChange, PostedEntry, StoreError, Why};

use crate::support::database::TestDatabase;
use crate::support::fixture::{credits, funded, grant, ledger, money, new_hold, run, settle};

/// A grant, or a correction downwards.
async fn post(
    db: &TestDatabase,
    org: OrgId,
    amount: i64,
    reason: &str,
    key: Option<&str>,
) -> Result<Done<PostedEntry>, StoreError> {
    let body = format!("{amount} {reason}");
    let once = key.map(|key| Once { key, body: body.as_bytes() });
    let why = Why { reason, external_ref: None };
    if amount > 0 {
        db.database().grant(org, credits(amount), None, why, once).await
    } else {
        db.database().adjust(org, credits(amount), why, once).await
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    match answer {
        Err(error) => error.to_string(),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_key_posts_once_and_its_replay_answers_the_first_entry() {
    let db = TestDatabase::new().await;
    let (org, other) = (funded(&db, 0).await, funded(&db, 0).await);
    let first = post(&db, org, 500, "may", Some("k")).await.unwrap();
    assert_eq!((first.replayed, first.answer.available), (false, credits(500)));
    let again = post(&db, org, 500, "may", Some("k")).await.unwrap();
    assert_eq!((again.replayed, again.answer), (true, first.answer));
    assert!(refusal(post(&db, org, 501, "may", Some("k")).await).contains("used for another request"));
    assert!(refusal(post(&db, org, 500, "june", Some("k")).await).contains("used for another request"));
    assert_eq!(money(db.database(), org).await, [500, 0, 0]);
    let elsewhere = refusal(post(&db, other, 500, "may", Some("k")).await);
    assert!(elsewhere.contains("used for another request"), "keys belong to the platform: {elsewhere}");
    assert!(!post(&db, org, 500, "may", None).await.unwrap().replayed, "without a key each call counts");
    assert_eq!(money(db.database(), org).await, [1000, 0, 0]);
}

#[tokio::test]
async fn of_many_posts_with_one_key_at_once_one_counts() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 0).await;
    let calls = (0..20).map(|_| post(&db, org, 500, "may", Some("k")));
    let answers = futures_util::future::try_join_all(calls).await.unwrap();
    assert_eq!(answers.iter().filter(|posted| !posted.replayed).count(), 1);
    assert!(answers.iter().all(|posted| posted.answer == answers[0].answer));
    assert_eq!(money(db.database(), org).await, [500, 0, 0]);
}

#[tokio::test]
async fn an_adjustment_takes_what_is_available_and_nothing_that_is_held() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let _guard = grant(&ledger, new_hold(org, 400)).await;
    assert!(refusal(post(&db, org, -601, "back", None).await).contains("has 600 credits available"));
    assert_eq!(post(&db, org, -600, "back", None).await.unwrap().answer.available, credits(0));
    assert!(refusal(post(&db, org, -1, "back", None).await).contains("has 0 credits available"));
    let overdraft = OrgChange { overdraft: Some(credits(5)), ..OrgChange::default() };
    db.database().update_org(org, overdraft, None).await.unwrap();
    assert_eq!(post(&db, org, -5, "back", None).await.unwrap().answer.available, credits(-5));
    assert_eq!(money(db.database(), org).await, [-5, 400, 0]);
}

#[tokio::test]
async fn what_does_not_fit_or_belongs_to_nobody_is_refused_in_words() {
    let db = TestDatabase::new().await;
    let org = funded(&db, i64::MAX).await;
    assert!(refusal(post(&db, org, 1, "more", None).await).contains("do not fit"));
    assert!(refusal(post(&db, OrgId::generate(), 1, "whose", None).await).contains("no organisation"));
    assert!(
        refusal(db.database().update_org(OrgId::generate(), OrgChange::default(), None).await)
            .contains("no organisation")
    );
    assert_eq!(money(db.database(), org).await, [i64::MAX, 0, 0]);
}

#[tokio::test]
async fn entries_and_losses_can_be_neither_changed_nor_removed() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let mut guard = grant(&ledger, new_hold(org, 400)).await;
    guard.step(run(guard.id())).await.unwrap();
    guard.step(settle(400)).await.unwrap();
    let mut failed = grant(&ledger, new_hold(org, 400)).await;
    failed.step(run(failed.id())).await.unwrap();
    failed.step(crate::support::fixture::fail(9)).await.unwrap();
    for statement in [
        "update entry set amount = amount + 1",
        "update entry set reason = 'other' where kind = 'grant'",
        "delete from entry",
        "truncate entry cascade",
        "truncate entry, org_balance cascade",
        "update platform_loss set amount = 0",
        "delete from platform_loss",
        "truncate platform_loss",
        "insert into entry select * from entry on conflict (org_id, entry_id) do update set amount = 0",
    ] {
        let error = sqlx::raw_sql(statement).execute(db.pool()).await.unwrap_err();
        assert!(error.to_string().contains("append-only"), "{statement}: {error}");
    }
    assert_eq!(money(db.database(), org).await, [600, 0, 400]);
}
