//! Usage: what the rollup says is what the entries say, however it is split.

use std::sync::Arc;

use time::Date;
use time::macros::date;
use tollgate::clock::Clock;
use tollgate::ids::{KeyId, OrgId, UserId};
use tollgate::order::Labels;
use tollgate::store::{Ledger, NewHold, Usage, UsageBy, UsageFilter};

use crate::credits::expiry::{reserve, step};
use crate::support::database::TestDatabase;
use crate::support::fixture::{
    credits, doubt, fail, funded, grant, late_run, late_settle, ledger, new_hold, run, settle, write_off,
};

fn everything(org: Option<OrgId>) -> UsageFilter {
    UsageFilter {
        org,
        from: date!(2000 - 01 - 01),
        to: date!(2999 - 12 - 31),
        team: None,
        user: None,
        key: None,
        task_type: None,
        label: None,
    }
}

async fn spend(ledger: &Ledger, new: NewHold, charge: i64) {
    let mut guard = grant(ledger, new).await;
    guard.step(run(guard.id())).await.unwrap();
    guard.step(settle(charge)).await.unwrap();
}

async fn sums(db: &TestDatabase, filter: &UsageFilter, by: &[UsageBy]) -> Vec<Usage> {
    db.database().usage(filter, by, 1000, 0).await.unwrap()
}

#[tokio::test]
async fn usage_is_split_and_filtered_in_any_way_and_always_adds_up() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let (org, other) = (funded(&db, 100_000).await, funded(&db, 100_000).await);
    let (users, keys) = ([UserId::generate(), UserId::generate()], [KeyId::generate(), KeyId::generate()]);
    let types: [Arc<str>; 2] = ["pro-text-to-video".into(), "o3-std-video-edit".into()];
    for n in 0..24usize {
        let new = NewHold {
            user: users[n % 2],
            key: [None, Some(keys[0]), Some(keys[1])][n % 3],
            task_type: types[n / 12].clone(),
            ..new_hold(if n % 8 == 7 { other } else { org }, 100)
        };
        spend(&ledger, new, 90 + i64::try_from(n).unwrap()).await;
    }
    let mut failed = grant(&ledger, new_hold(org, 100)).await;
    failed.step(run(failed.id())).await.unwrap();
    failed.step(fail(100)).await.unwrap();
    let mut late = grant(&ledger, new_hold(org, 100)).await;
    for step in [doubt(), write_off(100), late_run(), late_settle(70)] {
        late.step(step).await.unwrap();
    }

    for filter in [everything(None), everything(Some(org)), everything(Some(other))] {
        let [total] = &sums(&db, &filter, &[]).await[..] else { panic!() };
        let mut consumed = 0;
        for org in [org, other].into_iter().filter(|org| filter.org.is_none_or(|only| only == *org)) {
            consumed += db.database().balance(org).await.unwrap().unwrap().consumed.get();
        }
        assert_eq!(total.consumed, credits(consumed));
        // Each of the 64 ways that the rollup knows.
        for set in 0..1 << 6 {
            let by: Vec<_> = (0..6).filter(|n| set >> n & 1 == 1).map(|n| UsageBy::ALL[n]).collect();
            let rows = sums(&db, &filter, &by).await;
            let sum = |part: fn(&Usage) -> i64| rows.iter().map(part).sum::<i64>();
            assert_eq!(sum(|row| row.tasks), total.tasks, "{by:?}");
            assert_eq!(sum(|row| row.charged.get()), total.charged.get(), "{by:?}");
            assert_eq!(sum(|row| row.corrected.get()), total.corrected.get(), "{by:?}");
            assert!(rows.iter().all(|row| row.charged.get() + row.corrected.get() == row.consumed.get()));
        }
    }

    let rows = sums(&db, &everything(Some(org)), &[UsageBy::TaskType]).await;
    let found: Vec<_> =
        rows.iter().map(|row| (row.task_type.as_deref().unwrap(), row.tasks, row.corrected.get())).collect();
    assert_eq!(found, [("o3-std-video-edit", 10, 0), ("pro-text-to-video", 11, 70)]);
    let rows = sums(&db, &everything(Some(other)), &[UsageBy::Key]).await;
    let found: Vec<_> = rows.iter().map(|row| (row.key_id.unwrap(), row.charged.get())).collect();
    // The tasks numbered 7, 15 and 23.
    assert_eq!(found, [(None, 105), (Some(keys[0]), 97), (Some(keys[1]), 113)]);
    assert_eq!(rows[0].user_id, None, "what it is not split by is not shown");
    let only = UsageFilter {
        user: Some(users[0]),
        key: Some(keys[1]),
        task_type: Some(types[0].to_string()),
        ..everything(None)
    };
    let [row] = &sums(&db, &only, &[]).await[..] else { panic!() };
    assert_eq!((row.tasks, row.charged.get()), (2, 92 + 98), "the tasks numbered 2 and 8");
    let split = [UsageBy::User, UsageBy::Key];
    let filter = everything(None);
    let all = sums(&db, &filter, &split).await;
    let paged = [db.database().usage(&filter, &split, 3, 0), db.database().usage(&filter, &split, 100, 3)];
    let paged = futures_util::future::try_join_all(paged).await.unwrap().concat();
    assert_eq!(paged, all);
}

#[tokio::test]
async fn a_task_counts_on_the_utc_day_of_its_charge() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 1000).await;
    let midnight = date!(2026 - 03 - 02).midnight().assume_utc();
    let second = time::Duration::SECOND;
    for (made, ended, charge) in [
        (midnight - second, midnight - second, 1),
        (midnight - second, midnight, 10),
        (midnight, midnight, 100),
    ] {
        let hold = reserve(db.pool(), org, 100, made).await.unwrap();
        step(db.pool(), org, hold, "run", None, made).await;
        step(db.pool(), org, hold, "settle", Some(charge), ended).await;
    }
    let rows = sums(&db, &everything(Some(org)), &[UsageBy::Day]).await;
    let found: Vec<_> = rows.iter().map(|row| (row.day.as_deref().unwrap(), row.charged.get())).collect();
    assert_eq!(found, [("2026-03-01", 1), ("2026-03-02", 110)]);
    let of = async |from: Date, to: Date| {
        sums(&db, &UsageFilter { from, to, ..everything(Some(org)) }, &[]).await[0].charged.get()
    };
    assert_eq!(of(date!(2026 - 03 - 01), date!(2026 - 03 - 01)).await, 1);
    assert_eq!(of(date!(2026 - 03 - 02), date!(2026 - 03 - 09)).await, 110);
    assert_eq!(of(date!(2026 - 03 - 03), date!(2026 - 03 - 09)).await, 0);
    let today = Clock.wall().date();
    assert_eq!(of(today, today).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rollup_follows_the_entries_under_load() {
    let db = TestDatabase::new().await;
    let gateways = [ledger(&db).await, ledger(&db).await];
    let orgs = [funded(&db, 1 << 40).await, funded(&db, 1 << 40).await];
    let users = [UserId::generate(), UserId::generate()];
    let lives = (0..1500usize).map(|n| {
        let new = NewHold { user: users[n % 2], ..new_hold(orgs[n / 2 % 2], 10) };
        spend(&gateways[n / 4 % 2], new, 10)
    });
    futures_util::future::join_all(lives).await;
    let rows = sums(&db, &everything(None), &[UsageBy::Org, UsageBy::User]).await;
    let found: Vec<_> = rows.iter().map(|row| (row.tasks, row.charged.get())).collect();
    assert_eq!(found, [(375, 3750); 4]);
}

#[tokio::test]
async fn usage_by_a_label_adds_up_with_the_tasks_that_lack_it() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let (org, other) = (funded(&db, 100_000).await, funded(&db, 100_000).await);
    let users = [UserId::generate(), UserId::generate()];
    let labels = |pairs: &[(&str, &str)]| {
        Labels::of(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    };
    let given = [
        labels(&[("project", "x"), ("shot", "1")]),
        labels(&[("project", "y")]),
        labels(&[("shot", "x")]),
        labels(&[]),
    ];
    for n in 0..16usize {
        let new = NewHold {
            user: users[n / 4 % 2],
            labels: given[n % 4].clone(),
            ..new_hold(if n < 12 { org } else { other }, 100)
        };
        spend(&ledger, new, 10 + i64::try_from(n).unwrap()).await;
    }
    let mut late = grant(&ledger, NewHold { labels: given[1].clone(), ..new_hold(org, 100) }).await;
    for step in [doubt(), write_off(100), late_run(), late_settle(70)] {
        late.step(step).await.unwrap();
    }
    let mut failed = grant(&ledger, NewHold { labels: given[0].clone(), ..new_hold(org, 100) }).await;
    failed.step(run(failed.id())).await.unwrap();
    failed.step(fail(100)).await.unwrap();

    let of = |label: &str, user| UsageFilter { label: Some(label.into()), user, ..everything(Some(org)) };
    let rows = sums(&db, &of("project", None), &[UsageBy::Label]).await;
    let found: Vec<_> = rows
        .iter()
        .map(|row| {
            (row.label.as_ref().unwrap().as_deref(), row.tasks, row.charged.get(), row.corrected.get())
        })
        .collect();
    let expected = [
        (Some("x"), 3, 10 + 14 + 18, 0),
        (Some("y"), 3, 11 + 15 + 19, 70),
        (None, 6, 12 + 13 + 16 + 17 + 20 + 21, 0),
    ];
    assert_eq!(found, expected);
    let all = [UsageBy::Day, UsageBy::Team, UsageBy::User, UsageBy::Key, UsageBy::TaskType];
    for label in ["project", "shot", "nothing"] {
        for user in [None, Some(users[0])] {
            let [total] = &sums(&db, &UsageFilter { label: None, ..of(label, user) }, &[]).await[..] else {
                panic!()
            };
            let rows = sums(&db, &of(label, user), &[UsageBy::Label]).await;
            assert_eq!(rows.iter().map(|row| row.tasks).sum::<i64>(), total.tasks, "{label}");
            assert_eq!(
                rows.iter().map(|row| row.consumed.get()).sum::<i64>(),
                total.consumed.get(),
                "{label}"
            );
            // Without its value, the rows are those of the rollup.
            let mut split = sums(&db, &of("nothing", user), &[&all[..], &[UsageBy::Label]].concat()).await;
            for row in &mut split {
                assert_eq!(row.label.take(), Some(None));
            }
            assert_eq!(split, sums(&db, &of("nothing", user), &all).await);
        }
    }
}
