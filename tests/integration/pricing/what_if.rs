//! Past tasks priced by a draft: per organisation, per type, in total, and honest about what cannot be known.

use std::collections::BTreeMap;

use tollgate::credits::PriceFactor;
use tollgate::ids::{HoldId, OrgId};
use tollgate::pricing::{BookVersion, Tariff};
use tollgate::store::{Ledger, NewHold, Step, StoreError};

use crate::support::database::TestDatabase;
use crate::support::fixture::{credits, fail, funded, grant, ledger, new_hold, run, settle};

const VENDOR: BookVersion = BookVersion::new(1);

fn second(credits_: i64, with_audio: i64) -> Tariff {
    Tariff::Second { credits: credits(credits_), credits_with_audio: Some(credits(with_audio)) }
}

/// A task of that type and list price, with a factor, and how it ends.
async fn task(ledger: &Ledger, org: OrgId, task_type: &str, list: i64, bp: i32, end: Option<Step>) {
    let factor = PriceFactor::new(bp).unwrap();
    let new = NewHold {
        task_type: task_type.into(),
        list_price: credits(list),
        factor,
        amount: factor.apply(credits(list)).unwrap(),
        ..new_hold(org, list)
    };
    let mut guard = grant(ledger, new).await;
    guard.step(run(HoldId::generate())).await.unwrap();
    if let Some(end) = end {
        guard.step(end).await.unwrap();
    }
    std::mem::forget(guard);
}

#[tokio::test]
async fn charged_tasks_are_priced_by_the_draft_with_the_factor_they_had() {
    let test = TestDatabase::new().await;
    let (db, ledger) = (test.database(), ledger(&test).await);
    let (big, small) = (funded(&test, 100_000).await, funded(&test, 100_000).await);
    let (pro, std, edit) = ("pro-text-to-video", "std-text-to-video", "o3-pro-video-edit");
    // 5 s with sound, and without.
    task(&ledger, big, pro, 400, 10_000, Some(settle(400))).await;
    task(&ledger, big, pro, 270, 10_000, Some(settle(200))).await;
    let third = Step::Settle {
        task: None,
        raw: credits(400),
        reported: Some(credits(400)),
        charge: credits(134),
        flag: None,
    };
    // 5 s with sound at a third of the price: 134 held.
    task(&ledger, small, pro, 400, 3_333, Some(third)).await;
    // 4 s with sound, or 6 without.
    task(&ledger, small, std, 240, 10_000, Some(settle(240))).await;
    task(&ledger, small, edit, 435, 10_000, Some(settle(435))).await;
    // Nothing was charged for these.
    task(&ledger, small, pro, 400, 10_000, Some(fail(0))).await;
    task(&ledger, small, pro, 400, 10_000, None).await;

    let prices = BTreeMap::from([(pro.to_owned(), second(60, 100)), (std.to_owned(), second(10, 20))]);
    let draft = db.create_book("a draft", None, &prices).await.unwrap();
    let told = db.what_if(draft, 1).await.unwrap();
    assert_eq!((told.version, told.days), (draft, 1));
    let total = told.total;
    assert_eq!((total.tasks, total.refused, total.estimated), (4, 1, 1));
    assert_eq!(total.priced, credits(400 + 270 + 134 + 240));
    assert_eq!(total.charged, credits(400 + 200 + 134 + 240));
    assert_eq!(total.would_be_priced, credits(500 + 300 + 167 + 80));
    assert_eq!(total.difference, credits(100 + 30 + 33 - 160));
    assert_eq!(total.refused_priced, credits(435));
    assert_eq!(told.refused_types, [edit.into()]);
    let orgs: Vec<(OrgId, i64)> =
        told.orgs.iter().map(|org| (org.org_id, org.outcome.difference.get())).collect();
    assert_eq!(orgs, [(big, 130), (small, 33 - 160)]);
    let mut fewer = told.clone();
    fewer.keep_greatest(1);
    assert_eq!((fewer.orgs.len(), fewer.more_orgs, fewer.orgs[0].org_id), (1, 1, big));
    let types: Vec<(&str, i64)> =
        told.task_types.iter().map(|one| (&*one.task_type, one.outcome.difference.get())).collect();
    assert_eq!(types, [(edit, 0), (pro, 163), (std, -160)]);

    // By the book they were priced by nothing changes, nor is anything guessed.
    let same = db.what_if(VENDOR, 90).await.unwrap().total;
    assert_eq!((same.tasks, same.difference, same.estimated, same.refused), (5, credits(0), 0, 0));
    ledger.shut_down().await;
}

#[tokio::test]
async fn only_the_days_that_were_asked_for_count() {
    let test = TestDatabase::new().await;
    let (db, ledger) = (test.database(), ledger(&test).await);
    let org = funded(&test, 10_000).await;
    for _ in 0..3 {
        task(&ledger, org, "pro-text-to-video", 400, 10_000, Some(settle(400))).await;
    }
    sqlx::query("update hold set created_at = created_at - interval '30 hours' where hold_id = (select min(hold_id::text)::uuid from task)")
        .execute(test.pool())
        .await
        .unwrap();
    assert_eq!(db.what_if(VENDOR, 1).await.unwrap().total.tasks, 2);
    assert_eq!(db.what_if(VENDOR, 2).await.unwrap().total.tasks, 3);
    for days in [0, 91] {
        let refused = db.what_if(VENDOR, days).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
    let nowhere = db.what_if(BookVersion::new(99), 1).await;
    assert!(matches!(nowhere, Err(StoreError::NotFound(_))), "{nowhere:?}");
    let test = TestDatabase::new().await;
    let nothing = test.database().what_if(VENDOR, 90).await.unwrap();
    assert_eq!((nothing.total.tasks, nothing.orgs.len()), (0, 0));
    ledger.shut_down().await;
}
