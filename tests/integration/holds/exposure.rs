//! What the tasks of an organisation cost the platform, or may have cost it, is counted by day, and stops its creates at the
//! limit.

use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::credits::PriceFactor;
use tollgate::ids::OrgId;
use tollgate::store::{
    Applied, AuditFilter, Exposure, HoldGuard, LaneSettings, Ledger, NewHold, OrgChange, Step, StoreError,
    Verdict,
};

use crate::support::database::TestDatabase;
use crate::support::fixture::{
    credits, doubt, fail, funded, grant, lanes, late_fail, late_run, late_settle, ledger_with, money,
    new_hold, refuse, run, settle, with_key, write_off,
};

/// The limit of a day in these tests.
const LIMIT: i64 = 1000;

async fn limited(db: &TestDatabase) -> Ledger {
    ledger_with(db, LaneSettings { lanes: 1, max_exposure: credits(LIMIT), ..lanes() }).await
}

async fn exposure(db: &TestDatabase, org: OrgId) -> Exposure {
    db.database().credit_summary(org, credits(LIMIT)).await.unwrap().exposure
}

/// `[lost, in doubt, overrun]`.
async fn figures(db: &TestDatabase, org: OrgId) -> [i64; 3] {
    let exposure = exposure(db, org).await;
    [exposure.lost, exposure.in_doubt, exposure.overrun].map(|figure| figure.get())
}

/// Whether a create is refused because creates are stopped, one that costs something and one that is free.
async fn is_stopped(db: &TestDatabase, ledger: &Ledger, org: OrgId) -> bool {
    let mut refused = Vec::new();
    for price in [1, 0] {
        match ledger.reserve(new_hold(org, price)).await.unwrap() {
            Verdict::Stopped => refused.push(true),
            Verdict::Granted(mut guard) => {
                guard.step(refuse()).await.unwrap();
                refused.push(false);
            }
            other => panic!("neither granted nor stopped: {other:?}"),
        }
    }
    let shown = exposure(db, org).await.stopped_at.is_some();
    assert_eq!(refused, [shown, shown]);
    shown
}

/// A task that the vendor has accepted.
async fn running(ledger: &Ledger, new: NewHold) -> HoldGuard {
    let mut guard = grant(ledger, new).await;
    guard.step(run(guard.id())).await.unwrap();
    guard
}

async fn failed(ledger: &Ledger, org: OrgId, loss: i64) {
    assert_eq!(running(ledger, new_hold(org, 400)).await.step(fail(loss)).await.unwrap(), Applied::Yes);
}

async fn doubted(ledger: &Ledger, org: OrgId, price: i64) -> HoldGuard {
    let mut guard = grant(ledger, new_hold(org, price)).await;
    guard.step(doubt()).await.unwrap();
    guard
}

/// Has a day go by for all that was counted and noted.
async fn a_day_later(db: &TestDatabase) {
    for statement in [
        "update org_balance set exposure_since = exposure_since - interval '1 day', \
         stopped_at = stopped_at - interval '1 day'",
        "with open as (update open_task set doubt_at = doubt_at - interval '1 day') \
         update hold set doubt_at = doubt_at - interval '1 day', ended_at = ended_at - interval '1 day'",
    ] {
        sqlx::query(statement).execute(db.pool()).await.unwrap();
    }
}

#[tokio::test]
async fn losses_stop_the_creates_of_their_organisation_and_of_nobody_else() {
    let db = TestDatabase::new().await;
    let (ledger, org, other) = (limited(&db).await, funded(&db, 10_000).await, funded(&db, 10_000).await);
    let mut before = running(&ledger, new_hold(org, 400)).await;
    failed(&ledger, org, 400).await;
    failed(&ledger, other, 900).await;
    failed(&ledger, org, 0).await;
    let mut possibly = grant(&ledger, new_hold(org, 400)).await;
    possibly.step(Step::Refuse { reason: "an error", possible_loss: credits(599) }).await.unwrap();
    assert_eq!(figures(&db, org).await, [999, 0, 0]);
    assert!(!is_stopped(&db, &ledger, org).await);
    assert_eq!(db.database().stopped_organisations().await.unwrap(), 0);

    failed(&ledger, org, 1).await;
    assert!(is_stopped(&db, &ledger, org).await);
    assert!(!is_stopped(&db, &ledger, other).await);
    assert_eq!(db.database().stopped_organisations().await.unwrap(), 1);
    // What was there goes on and is charged.
    before.step(settle(400)).await.unwrap();
    assert_eq!(money(db.database(), org).await, [9_600, 0, 400]);
    assert_eq!(figures(&db, org).await, [1000, 0, 0]);
}

#[tokio::test]
async fn doubts_stop_creates_and_those_that_end_by_evidence_are_taken_out_again() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (limited(&db).await, funded(&db, 10_000).await);
    let (mut runs, mut refused) = (doubted(&ledger, org, 500).await, doubted(&ledger, org, 300).await);
    assert_eq!(figures(&db, org).await, [0, 800, 0]);
    runs.step(run(runs.id())).await.unwrap();
    refused.step(refuse()).await.unwrap();
    assert_eq!(figures(&db, org).await, [0, 0, 0]);
    // One that failed, or was written off, has cost what it has cost, and counts once.
    doubted(&ledger, org, 300).await.step(fail(120)).await.unwrap();
    doubted(&ledger, org, 200).await.step(write_off(200)).await.unwrap();
    assert_eq!(figures(&db, org).await, [320, 0, 0]);
    let mut last = doubted(&ledger, org, 680).await;
    assert_eq!(figures(&db, org).await, [320, 680, 0]);
    assert!(is_stopped(&db, &ledger, org).await);
    last.step(refuse()).await.unwrap();
    assert_eq!(figures(&db, org).await, [320, 0, 0]);
    assert!(is_stopped(&db, &ledger, org).await, "only an operator lets creates go on");
}

#[tokio::test]
async fn overruns_stop_creates_and_a_price_factor_is_no_overrun() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (limited(&db).await, funded(&db, 10_000).await);
    let half =
        NewHold { amount: credits(200), factor: PriceFactor::new(5000).unwrap(), ..new_hold(org, 400) };
    let charged = |raw, charge| Step::Settle {
        task: None,
        raw: credits(raw),
        reported: Some(credits(raw)),
        charge: credits(charge),
        flag: None,
    };
    running(&ledger, half.clone()).await.step(charged(400, 200)).await.unwrap();
    running(&ledger, new_hold(org, 400)).await.step(settle(390)).await.unwrap();
    assert_eq!(figures(&db, org).await, [0, 0, 0]);
    let half = NewHold { hold: new_hold(org, 1).hold, ..half };
    running(&ledger, half).await.step(charged(900, 450)).await.unwrap();
    assert_eq!(figures(&db, org).await, [0, 0, 500]);
    assert!(!is_stopped(&db, &ledger, org).await);
    running(&ledger, new_hold(org, 400)).await.step(settle(900)).await.unwrap();
    assert_eq!(figures(&db, org).await, [0, 0, 1000]);
    assert!(is_stopped(&db, &ledger, org).await);
}

#[tokio::test]
async fn a_day_is_counted_by_itself_and_a_stop_outlasts_it() {
    let db = TestDatabase::new().await;
    let (ledger, org, other) = (limited(&db).await, funded(&db, 10_000).await, funded(&db, 10_000).await);
    failed(&ledger, org, 900).await;
    let (mut written_off, mut ran) = (doubted(&ledger, org, 60).await, doubted(&ledger, org, 30).await);
    failed(&ledger, other, 1000).await;
    a_day_later(&db).await;
    assert_eq!(figures(&db, org).await, [0, 0, 0]);
    assert!(exposure(&db, org).await.since > Clock.wall() - Duration::from_secs(86_400));
    // They were counted on their day.
    written_off.step(write_off(60)).await.unwrap();
    ran.step(run(ran.id())).await.unwrap();
    failed(&ledger, org, 900).await;
    assert_eq!(figures(&db, org).await, [900, 0, 0]);
    assert!(!is_stopped(&db, &ledger, org).await);

    assert_eq!(figures(&db, other).await, [1000, 0, 0], "the operator sees what stopped it");
    assert!(is_stopped(&db, &ledger, other).await);
}

#[tokio::test]
async fn evidence_after_the_end_counts_what_it_adds() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (limited(&db).await, funded(&db, 10_000).await);
    // Written off, and charged in the end; written off, and then known to have cost more.
    let (mut charged, mut lost) = (doubted(&ledger, org, 300).await, doubted(&ledger, org, 300).await);
    for guard in [&mut charged, &mut lost] {
        guard.step(write_off(300)).await.unwrap();
        guard.step(late_run()).await.unwrap();
    }
    assert_eq!(figures(&db, org).await, [600, 0, 0]);
    charged.step(late_settle(350)).await.unwrap();
    assert_eq!(figures(&db, org).await, [300, 0, 50]);
    lost.step(late_fail(310)).await.unwrap();
    assert_eq!(figures(&db, org).await, [310, 0, 50]);
    // Of an earlier day only what comes to it.
    let (mut charged, mut lost) = (doubted(&ledger, org, 100).await, doubted(&ledger, org, 100).await);
    for guard in [&mut charged, &mut lost] {
        guard.step(write_off(100)).await.unwrap();
        guard.step(late_run()).await.unwrap();
    }
    a_day_later(&db).await;
    failed(&ledger, org, 40).await;
    charged.step(late_settle(100)).await.unwrap();
    lost.step(late_fail(130)).await.unwrap();
    assert_eq!(figures(&db, org).await, [70, 0, 0]);
}

#[tokio::test]
async fn an_operator_lets_creates_go_on_and_the_count_begins_at_0() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (limited(&db).await, funded(&db, 10_000).await);
    let mut open = doubted(&ledger, org, 700).await;
    failed(&ledger, org, 400).await;
    assert!(is_stopped(&db, &ledger, org).await);
    assert_eq!(figures(&db, org).await, [400, 700, 0]);
    let stopped_at = exposure(&db, org).await.stopped_at.unwrap();

    let blank = db.database().resume_creates(org, " ").await;
    assert!(matches!(blank, Err(StoreError::Invalid(_))), "{blank:?}");
    let nobody = db.database().resume_creates(OrgId::generate(), "who?").await;
    assert!(matches!(nobody, Err(StoreError::NotFound(_))), "{nobody:?}");
    assert!(is_stopped(&db, &ledger, org).await);
    db.database().resume_creates(org, "the vendor refunds it").await.unwrap();
    assert_eq!(figures(&db, org).await, [0, 0, 0]);
    assert!(exposure(&db, org).await.since >= stopped_at);
    // A doubt that was counted before takes nothing out of the new count.
    failed(&ledger, org, 100).await;
    open.step(refuse()).await.unwrap();
    assert_eq!(figures(&db, org).await, [100, 0, 0]);
    assert!(!is_stopped(&db, &ledger, org).await);

    let filter = AuditFilter { action: Some("org.resume".into()), ..AuditFilter::default() };
    let log = db.database().audit_log(&filter, None, 10).await.unwrap();
    let [entry] = &log[..] else { panic!("{log:?}") };
    assert_eq!((entry.target_id.as_str(), entry.org_id), (org.to_string().as_str(), Some(org)));
    let (before, after) = (entry.before.as_ref().unwrap(), entry.after.as_ref().unwrap());
    assert_eq!(after["reason"], "the vendor refunds it");
    assert_eq!((&before["exposure_lost"], &before["exposure_in_doubt"]), (&400.into(), &700.into()));
    assert!(before["stopped_at"].is_string() && after["stopped_at"].is_null(), "{entry:?}");
}

#[tokio::test]
async fn without_a_limit_it_is_counted_and_nothing_is_stopped() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger_with(&db, lanes()).await, funded(&db, 10_000).await);
    failed(&ledger, org, i64::MAX - 10).await;
    failed(&ledger, org, i64::MAX - 10).await;
    assert_eq!(figures(&db, org).await, [i64::MAX, 0, 0], "as large as can be");
    assert!(!is_stopped(&db, &ledger, org).await);
    assert_eq!(db.database().credit_summary(org, credits(0)).await.unwrap().exposure.limit, None);
}

#[tokio::test]
async fn a_known_key_and_a_doubt_are_answered_before_the_stop() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (limited(&db).await, funded(&db, 10_000).await);
    let mut known = grant(&ledger, with_key(org, 400, "known")).await;
    known.step(run(known.id())).await.unwrap();
    let doubt = new_hold(org, 400);
    let again = NewHold { hold: new_hold(org, 400).hold, ..doubt.clone() };
    let mut doubted = grant(&ledger, doubt).await;
    doubted.step(Step::Doubt { reason: "no answer" }).await.unwrap();
    failed(&ledger, org, 1000).await;
    assert!(matches!(ledger.reserve(with_key(org, 400, "known")).await.unwrap(), Verdict::KeyTaken));
    let told = ledger.reserve(again).await.unwrap();
    assert!(matches!(told, Verdict::InDoubt(hold) if hold == doubted.id()), "{told:?}");
    // A refused create leaves its key free.
    for _ in 0..2 {
        assert!(matches!(ledger.reserve(with_key(org, 400, "new")).await.unwrap(), Verdict::Stopped));
    }
    db.database().resume_creates(org, "seen").await.unwrap();
    let mut granted = grant(&ledger, with_key(org, 400, "new")).await;
    granted.step(refuse()).await.unwrap();
}

/// Gateways of an earlier version know no verdict "stopped", and do not set the limit.
#[tokio::test]
async fn a_gateway_that_knows_no_stops_is_refused_in_words_that_it_knows() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (limited(&db).await, funded(&db, 10_000).await);
    failed(&ledger, org, 1000).await;
    let new = new_hold(org, 1);
    let verdicts: Vec<String> = sqlx::query_scalar(
        "select verdict from reserve_batch(array[$1], array[1], array[$2], array[$1], array[null::uuid], array[1::bigint], \
         array[1::bigint], array[10000], array[1], array['t'], array['b'], array['a'], array[$3], array[null::text], \
         array[false], array[false], $1, 0, 1000, false, null)",
    )
    .bind(org.as_uuid())
    .bind(new.hold.as_uuid())
    .bind(new.fingerprint.as_bytes())
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(verdicts, ["too_many_tasks"]);
}

#[tokio::test]
async fn a_balance_below_the_overdraft_refuses_the_next_create_also_one_that_is_free() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (limited(&db).await, funded(&db, 400).await);
    running(&ledger, new_hold(org, 400)).await.step(settle(500)).await.unwrap();
    assert_eq!(money(db.database(), org).await, [-100, 0, 500]);
    let refused = async |new| {
        let told = ledger.reserve(new).await.unwrap();
        assert!(
            matches!(told, Verdict::Insufficient { available } if available == credits(-100)),
            "{told:?}"
        );
    };
    for price in [1, 0] {
        refused(new_hold(org, price)).await;
        refused(with_key(org, price, "keyed")).await;
    }
    let overdraft = OrgChange { overdraft: Some(credits(100)), ..OrgChange::default() };
    db.database().update_org(org, overdraft, None).await.unwrap();
    refused(new_hold(org, 1)).await;
    let mut free = grant(&ledger, new_hold(org, 0)).await;
    free.step(refuse()).await.unwrap();
}
