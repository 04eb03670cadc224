//! The audit of what is new or open takes sealed months for what their seals say, and finds what is wrong with the rest.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tokio_util::sync::CancellationToken;
use tollgate::ids::{GatewayId, HoldId};

use crate::support::aged::{aged, by_hand};
use crate::support::database::TestDatabase;
use crate::support::fixture::{
    HOUR, doubt, fail, funded, grant, late_run, late_settle, ledger, new_hold, refuse, run, settle, write_off,
};

const ENTRIES: &str = "granted and consumed = sums of entries";
const USAGE: &str = "usage by day = entries of tasks";
const CONSUME: &str = "a settled task has exactly one consume, of what was charged; no other has one";
const AMOUNT: &str = "a hold is its list price times its factor, rounded up";
const HELD: &str = "held = sum of open holds";
const COST: &str = "what a task cost the platform is in its losses";
const VENDOR: &str = "the vendor's id of a task is known once";
const CHAIN: &str =
    "entries follow one another: each has the balance before it and its amount, and is as it was booked";
const HOLD: &str = "a hold is as it was made, in price, factor, account and windows";
const OPEN: &str = "a task goes on while it is open, and no longer";
const COUNTERS: &str = "open tasks and tasks in doubt are counted";

/// The checks that an audit of a gateway finds broken. `whole`: as if none of the whole had been made.
async fn found(db: &TestDatabase, whole: bool) -> Vec<&'static str> {
    let begun = if whole { "null" } else { "now()" };
    let due = format!(
        "update audit_run set whole_at = {begun}, breaches = '{{}}', started_at = null, not_before = '-infinity'"
    );
    sqlx::query(AssertSqlSafe(due)).execute(db.pool()).await.unwrap();
    let never = CancellationToken::new();
    let breaches = db.database().audit_if_due(GatewayId::generate(), HOUR, &never).await.unwrap().unwrap();
    breaches.into_iter().map(|breach| breach.check).collect()
}

#[tokio::test]
async fn what_is_new_or_open_is_audited_and_sealed_months_are_taken_for_their_seals() {
    let mut db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 10_000).await);
    let lives = || {
        [
            vec![run(HoldId::generate()), settle(90)],
            vec![run(HoldId::generate()), fail(5)],
            vec![refuse()],
            vec![doubt(), write_off(100)],
            vec![doubt(), write_off(100), late_run(), late_settle(70)],
        ]
    };
    for steps in lives() {
        let mut guard = grant(&ledger, new_hold(org, 100)).await;
        for step in steps {
            guard.step(step).await.unwrap();
        }
        std::mem::forget(guard);
    }
    aged(&db, 60).await;
    assert_eq!(found(&db, true).await, [""; 0]);
    assert_eq!(found(&db, false).await, [""; 0], "no month is sealed: the whole");
    assert_eq!(db.database().seal_months(Duration::from_secs(60)).await.unwrap(), 1);
    assert_eq!(found(&db, false).await, [""; 0]);

    let mut open = vec![vec![], vec![run(HoldId::generate())], vec![doubt()]];
    open.extend(lives());
    for steps in open {
        let mut guard = grant(&ledger, new_hold(org, 100)).await;
        for step in steps {
            guard.step(step).await.unwrap();
        }
        std::mem::forget(guard);
    }
    assert_eq!(found(&db, false).await, [""; 0]);
    assert_eq!(found(&db, true).await, [""; 0]);
    ledger.shut_down().await;

    // What is wrong with a sealed month is the whole audit's to find, and that of what is new reads none of its rows.
    db.expect_broken();
    let old = "hold_id < first_id(now() - interval '40 days')";
    by_hand(&db, &format!("update hold set amount = amount + 1 where {old} and state = 'WRITTEN_OFF'")).await;
    assert_eq!(found(&db, false).await, [""; 0]);
    assert_eq!(found(&db, true).await, [AMOUNT, HOLD]);
    by_hand(&db, &format!("update hold set amount = amount - 1 where {old} and state = 'WRITTEN_OFF'")).await;

    for (statement, expected) in [
        ("update org_balance set granted = granted + 1, available = available + 1", &[ENTRIES][..]),
        ("update org_balance set held = held + 1, available = available - 1", &[HELD]),
        ("update usage_day set charged = charged + 1 where day < now() - interval '40 days'", &[USAGE]),
        (
            "delete from entry where kind = 'consume' and entry_id > first_id(now() - interval '1 day')",
            &[CONSUME, ENTRIES, USAGE],
        ),
        (
            "update entry set reason = 'x' where kind = 'consume' and entry_id > first_id(now() - interval '1 day')",
            &[CHAIN],
        ),
        (
            "update hold set lost = lost + 1 where lost > 0 and hold_id > first_id(now() - interval '1 day')",
            &[COST],
        ),
        ("delete from vendor_task where hold_id > first_id(now() - interval '1 day')", &[VENDOR]),
        ("delete from open_task where state = 'HELD'", &[HELD, COUNTERS, OPEN]),
    ] {
        let mut copy = db.copy().await;
        copy.expect_broken();
        by_hand(&copy, statement).await;
        let mut found = found(&copy, false).await;
        found.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{statement}");
    }
}

/// Rows of an organisation are found wherever its id stands: before, between and behind those that there are, each with a turn of
/// its own.
#[tokio::test]
async fn every_organisation_has_its_turn_also_those_that_are_none() {
    let mut db = TestDatabase::new().await;
    db.expect_broken();
    let orgs = [funded(&db, 10).await, funded(&db, 20).await, funded(&db, 30).await];
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
    let strays = ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-fffffffffffe"];
    by_hand(&db, "update org_balance set entries = 200000").await;
    for stray in strays {
        let made = format!(
            "insert into entry (org_id, entry_id, kind, amount, created_at) values ('{stray}', gen_random_uuid(), 'grant', 1, now())"
        );
        by_hand(&db, &made).await;
    }
    let breaches = db.database().audit().await.unwrap().breaches;
    let told = |check: &str| breaches.iter().filter(|breach| breach.check == check).count();
    assert_eq!(told(ENTRIES), 2, "{breaches:?}");
    assert_eq!(told(CHAIN), 5, "{breaches:?}");
    for id in orgs.map(|org| org.as_uuid().to_string()).iter().map(String::as_str).chain(strays) {
        assert!(breaches.iter().any(|breach| breach.detail.contains(id)), "{id}: {breaches:?}");
    }
    let mut gateway = found(&db, true).await;
    gateway.retain(|check| [ENTRIES, CHAIN].contains(check));
    assert_eq!(gateway, [ENTRIES, CHAIN]);
}

/// Where the role of gateways may make no views, each check is made at once for all.
#[tokio::test]
async fn without_views_of_its_own_the_audit_finds_the_same() {
    let mut db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1_000).await);
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    guard.step(run(HoldId::generate())).await.unwrap();
    guard.step(settle(90)).await.unwrap();
    ledger.shut_down().await;
    let forbid = "do $$ begin execute format('revoke temporary on database %I from public', current_database()); end $$";
    sqlx::raw_sql(forbid).execute(db.pool()).await.unwrap();
    assert_eq!(found(&db, true).await, [""; 0]);
    db.expect_broken();
    by_hand(&db, "update org_balance set held = held + 1, available = available - 1").await;
    assert_eq!(found(&db, true).await, [HELD]);
}
