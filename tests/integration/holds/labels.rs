//! Labels are written in the transaction of their hold, under either profile, and for what is granted alone.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tollgate::config::Profile;
use tollgate::ids::HoldId;
use tollgate::order::Labels;
use tollgate::store::{LaneSettings, NewHold, Verdict};

use crate::support::database::TestDatabase;
use crate::support::fixture::{funded, grant, ledger_with, new_hold};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

/// The labels of a hold that were written by the transaction that wrote the hold: a gateway that dies after one has left both.
async fn of_hold(db: &TestDatabase, hold: HoldId) -> BTreeMap<String, String> {
    sqlx::query_as("select l.name, l.value from hold h join label l using (org_id, hold_id) where hold_id = $1 and h.xmin = l.xmin")
        .bind(hold.as_uuid())
        .fetch_all(db.pool())
        .await
        .unwrap()
        .into_iter()
        .collect()
}

#[tokio::test]
async fn a_hold_and_its_labels_are_one_transaction() {
    let db = TestDatabase::new().await;
    for profile in [Profile::Plain, Profile::TwoCommit] {
        let ledger = ledger_with(&db, LaneSettings { lanes: 1, profile, ..LaneSettings::default() }).await;
        // Of the batch behind the first create some have labels, some have none, and some find no credits.
        let (rich, poor) = (funded(&db, 1000).await, funded(&db, 30).await);
        let news = (0..60).map(|n: usize| {
            let given =
                [labels(&[]), labels(&[("project", "x")]), labels(&[("project", "y"), ("shot", "1")])];
            NewHold {
                labels: given[n % 3].clone(),
                ..new_hold(if n.is_multiple_of(2) { rich } else { poor }, 10)
            }
        });
        let (mut granted, mut guards) = (0, Vec::new());
        for (new, verdict) in
            join_all(news.map(async |new| (new.clone(), ledger.reserve(new).await.unwrap()))).await
        {
            let expected = match verdict {
                Verdict::Granted(guard) => {
                    guards.push(guard);
                    granted += 1;
                    new.labels.to_map()
                }
                Verdict::Insufficient { .. } => BTreeMap::new(),
                other => panic!("{other:?}"),
            };
            assert_eq!(of_hold(&db, new.hold).await, expected, "{profile:?}");
        }
        assert_eq!(granted, 33);
    }
    let stray: i64 = sqlx::query_scalar(
        "select count(*) from label left join hold using (org_id, hold_id) where hold.hold_id is null",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(stray, 0);
}

#[tokio::test]
async fn labels_have_the_month_of_their_hold() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 100).await;
    let ledger = ledger_with(&db, LaneSettings { lanes: 1, ..LaneSettings::default() }).await;
    let guard = grant(&ledger, NewHold { labels: labels(&[("a", "b")]), ..new_hold(org, 10) }).await;
    let [hold, label]: [String; 2] = sqlx::query_scalar(
        "select tableoid::regclass::text from hold where hold_id = $1 union all select tableoid::regclass::text from label where hold_id = $1",
    )
    .bind(guard.id().as_uuid())
    .fetch_all(db.pool())
    .await
    .unwrap()
    .try_into()
    .unwrap();
    assert_eq!(label, hold.replace("hold", "label"));
}
