//! Finishing tasks, shared by any number of gateways.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use tollgate::ids::{GatewayId, HoldId, OrgId};
use tollgate::store::{LaneSettings, Ledger, Task};

use crate::support::database::TestDatabase;
use crate::support::fixture::{
    doubt, funded, grant, lanes, late_run, ledger, ledger_with, new_hold, run, settle, with_key, write_off,
};

const MINUTE: Duration = Duration::from_secs(60);

/// So many tasks of `org` whose poll is due.
async fn due(db: &TestDatabase, ledger: &Ledger, org: OrgId, tasks: usize) {
    let runs = (0..tasks).map(|_| async {
        let mut guard = grant(ledger, new_hold(org, 1)).await;
        guard.step(run(HoldId::generate())).await.unwrap();
    });
    join_all(runs).await;
    make_due(db).await;
}

async fn make_due(db: &TestDatabase) {
    sqlx::query("update open_task set due_at = now() - interval '1 second'")
        .execute(db.pool())
        .await
        .unwrap();
}

async fn claim(db: &TestDatabase, limit: u32) -> Vec<Task> {
    db.database().claim_due("kling-3.0", limit, MINUTE, &[]).await.unwrap()
}

#[tokio::test]
async fn no_organisation_waits_for_the_backlog_of_another() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let (loud, quiet, third) = (funded(&db, 1000).await, funded(&db, 1000).await, funded(&db, 1000).await);
    due(&db, &ledger, loud, 300).await;
    due(&db, &ledger, quiet, 2).await;
    due(&db, &ledger, third, 4).await;
    let count = |tasks: &[Task], org| tasks.iter().filter(|task| task.org == org).count();
    let first = claim(&db, 9).await;
    let turns = (count(&first, loud), count(&first, quiet), count(&first, third));
    assert!(turns == (4, 2, 3) || turns == (3, 2, 4), "{turns:?}");
    // What nobody else wants is not left unused.
    let second = claim(&db, 20).await;
    assert_eq!(count(&first, third) + count(&second, third), 4);
    assert_eq!(second.len(), 20);
    let more_than_there_is = claim(&db, 1000).await;
    assert_eq!(more_than_there_is.len(), 306 - 29);
}

#[tokio::test]
async fn no_organisation_waits_for_what_came_to_light_late_in_another() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let (loud, quiet) = (funded(&db, 1000).await, funded(&db, 1000).await);
    for (org, tasks) in [(loud, 60), (quiet, 2)] {
        let late = (0..tasks).map(|_| async {
            let mut guard = grant(&ledger, new_hold(org, 1)).await;
            for step in [doubt(), write_off(1), late_run()] {
                guard.step(step).await.unwrap();
            }
        });
        join_all(late).await;
    }
    due(&db, &ledger, quiet, 1).await;
    sqlx::query("update open_task set due_at = now() - interval '1 hour' where org_id = $1")
        .bind(loud.as_uuid())
        .execute(db.pool())
        .await
        .unwrap();
    let count = |tasks: &[Task], org| tasks.iter().filter(|task| task.org == org).count();
    let first = claim(&db, 6).await;
    assert_eq!((count(&first, loud), count(&first, quiet)), (3, 3));
    assert_eq!(claim(&db, 1000).await.len(), 57);
}

/// How many holds one look at them returns at most.
const LOOK: usize = 1_000;

#[tokio::test]
async fn no_organisation_waits_for_what_the_sweep_finds_in_another() {
    let db = TestDatabase::new().await;
    let overdue_at_once = LaneSettings { hold_grace: Duration::ZERO, ..lanes() };
    let owner = ledger_with(&db, overdue_at_once).await;
    let sweeper = ledger(&db).await;
    let (loud, quiet) = (funded(&db, 10_000).await, funded(&db, 10_000).await);
    let mut guards = join_all((0..LOOK + 100).map(|_| grant(&owner, new_hold(loud, 1)))).await;
    // All others are older.
    guards.push(grant(&owner, new_hold(quiet, 1)).await);
    let database = db.database();
    let finds = |orgs: Vec<OrgId>| {
        assert_eq!((orgs.len(), orgs.iter().filter(|org| **org == quiet).count()), (LOOK, 1));
    };
    finds(database.overdue_holds(owner.gateway()).await.unwrap().iter().map(|found| found.0).collect());
    assert!(database.orphaned_holds(sweeper.gateway()).await.unwrap().is_empty(), "its gateway lives");
    database.end_lease(owner.gateway()).await.unwrap();
    finds(database.orphaned_holds(sweeper.gateway()).await.unwrap().iter().map(|found| found.0).collect());
    assert!(database.orphaned_holds(owner.gateway()).await.unwrap().is_empty(), "they are its own");

    for found in join_all(guards.iter_mut().map(|guard| guard.step(doubt()))).await {
        found.unwrap();
    }
    sqlx::query("update open_task set doubt_at = doubt_at - interval '1 hour' where org_id = $1")
        .bind(loud.as_uuid())
        .execute(db.pool())
        .await
        .unwrap();
    finds(database.expired_doubts(Duration::ZERO).await.unwrap().iter().map(|found| found.0).collect());
    assert!(database.expired_doubts(2 * 60 * MINUTE).await.unwrap().is_empty());
    std::mem::forget(guards);
}

#[tokio::test]
async fn claims_of_many_never_overlap_and_a_dead_claimers_are_taken_over() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    for _ in 0..5 {
        let org = funded(&db, 1000).await;
        due(&db, &ledger, org, 40).await;
    }
    let mut seen = HashSet::new();
    while seen.len() < 200 {
        for claimed in join_all((0..8).map(|_| claim(&db, 10))).await.into_iter().flatten() {
            assert!(seen.insert(claimed.hold), "claimed twice");
            assert_eq!(claimed.polls, 1);
        }
    }
    assert!(claim(&db, 10).await.is_empty(), "everything is claimed");
    // Nobody has polled: the leases run out.
    make_due(&db).await;
    let again = claim(&db, 1000).await;
    assert_eq!(again.len(), 200);
    assert!(again.iter().all(|task| task.polls == 2), "a claim has a token of its own");
}

#[tokio::test]
async fn doubts_with_an_id_and_what_came_to_light_late_are_polled_and_nothing_else_is() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let org = funded(&db, 1000).await;
    let mut wanted = HashSet::new();
    for (steps, polled) in [
        (vec![], false),
        (vec![run(HoldId::generate())], true),
        (vec![run(HoldId::generate()), doubt()], true),
        (vec![doubt()], false),
        (vec![run(HoldId::generate()), settle(1)], false),
        (vec![doubt(), write_off(1)], false),
        (vec![doubt(), write_off(1), late_run()], true),
    ] {
        let mut guard = grant(&ledger, new_hold(org, 1)).await;
        for step in steps {
            guard.step(step).await.unwrap();
        }
        if polled {
            wanted.insert(guard.id());
        }
        std::mem::forget(guard);
    }
    make_due(&db).await;
    let claimed: HashSet<HoldId> = claim(&db, 100).await.into_iter().map(|task| task.hold).collect();
    assert_eq!(claimed, wanted);
}

#[tokio::test]
async fn every_gateway_knows_how_many_share_the_work() {
    let db = TestDatabase::new().await;
    let [a, b] = [GatewayId::generate(), GatewayId::generate()];
    assert_eq!(db.database().renew_lease(a, MINUTE).await.unwrap(), 1);
    assert_eq!(db.database().renew_lease(b, MINUTE).await.unwrap(), 2);
    assert_eq!(db.database().renew_lease(a, MINUTE).await.unwrap(), 2);
    db.database().end_lease(b).await.unwrap();
    assert_eq!(db.database().renew_lease(a, MINUTE).await.unwrap(), 1);
}

#[tokio::test]
async fn idempotency_keys_are_forgotten_after_their_retention_but_never_under_an_open_task() {
    let db = TestDatabase::new().await;
    let ledger = ledger(&db).await;
    let org = funded(&db, 1000).await;
    for (key, steps) in [
        ("held", vec![]),
        ("running", vec![run(HoldId::generate())]),
        ("in doubt", vec![doubt()]),
        ("settled", vec![run(HoldId::generate()), settle(1)]),
        ("written off", vec![doubt(), write_off(1)]),
        ("late", vec![doubt(), write_off(1), late_run()]),
    ] {
        let mut guard = grant(&ledger, with_key(org, 1, key)).await;
        for step in steps {
            guard.step(step).await.unwrap();
        }
        std::mem::forget(guard);
    }
    assert_eq!(db.database().forget_old_claims(72).await.unwrap(), 0, "they are fresh");
    let aged = "with older as (update hold set created_at = now() - interval '73 hours') \
                update idempotency set created_at = now() - interval '73 hours'";
    sqlx::query(aged).execute(db.pool()).await.unwrap();
    assert_eq!(db.database().forget_old_claims(72).await.unwrap(), 2);
    for (key, kept) in [
        ("held", true),
        ("running", true),
        ("in doubt", true),
        ("settled", false),
        ("written off", false),
        ("late", true),
    ] {
        assert_eq!(db.database().claim(org, key).await.unwrap().is_some(), kept, "{key}");
    }
}
