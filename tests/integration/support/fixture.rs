//! What tests of the ledger are made of: ledgers, funded organisations, holds, and their steps.

use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::config::Profile;
use tollgate::credits::{Credits, PriceFactor};
use tollgate::ids::{GatewayId, HoldId, OrgId, UserId};
use tollgate::order::Labels;
use tollgate::pricing::BookVersion;
use tollgate::store::{
    Database, Fingerprint, HoldGuard, LaneSettings, Ledger, NewHold, State, Step, Verdict,
};

use super::database::TestDatabase;
use crate::support::seed::{TOP_UP, org_named};

/// Longer than any test takes.
pub const HOUR: Duration = Duration::from_secs(3600);

pub const fn credits(amount: i64) -> Credits {
    Credits::new(amount)
}

/// The profile under test, from the variable that gateways read too.
pub fn profile() -> Profile {
    match std::env::var("TOLLGATE_LEDGER__PROFILE").as_deref() {
        Ok("two-commit") => Profile::TwoCommit,
        _ => Profile::Plain,
    }
}

/// The defaults, in the profile under test.
pub fn lanes() -> LaneSettings {
    LaneSettings { profile: profile(), ..LaneSettings::default() }
}

/// The ledger of one more gateway, which is alive.
pub async fn ledger(db: &TestDatabase) -> Ledger {
    ledger_with(db, LaneSettings { lanes: 2, ..lanes() }).await
}

pub async fn ledger_with(db: &TestDatabase, settings: LaneSettings) -> Ledger {
    let gateway = GatewayId::generate();
    db.database().renew_lease(gateway, HOUR).await.unwrap();
    ledger_of(db, gateway, settings)
}

pub fn ledger_of(db: &TestDatabase, gateway: GatewayId, settings: LaneSettings) -> Ledger {
    Ledger::start((**db.database()).clone(), gateway, &settings, Duration::from_secs(60), Clock)
}

/// An organisation with so many credits.
pub async fn funded(db: &TestDatabase, amount: i64) -> OrgId {
    let org = db.database().add_org(&org_named(&HoldId::generate().to_string())).await.unwrap();
    if amount > 0 {
        db.database().grant(org, credits(amount), None, TOP_UP, None).await.unwrap();
    }
    org
}

/// A hold at list price, each with a body of its own.
pub fn new_hold(org: OrgId, amount: i64) -> NewHold {
    let hold = HoldId::generate();
    NewHold {
        hold,
        org,
        user: UserId::from_uuid(org.as_uuid()),
        key: None,
        amount: credits(amount),
        list_price: credits(amount),
        factor: PriceFactor::LIST,
        book: BookVersion::new(1),
        task_type: "pro-text-to-video".into(),
        backend: "kling-3.0".into(),
        account: "main".into(),
        fingerprint: Fingerprint::of(hold.to_string().as_bytes()),
        idempotency_key: None,
        refuse_if_in_doubt: true,
        refuse_if_unanswered: false,
        labels: Labels::default(),
    }
}

pub fn with_key(org: OrgId, amount: i64, key: &str) -> NewHold {
    NewHold { idempotency_key: Some(key.into()), ..new_hold(org, amount) }
}

/// Reserves what must be granted.
pub async fn grant(ledger: &Ledger, new: NewHold) -> HoldGuard {
    match ledger.reserve(new).await.unwrap() {
        Verdict::Granted(guard) => guard,
        other => panic!("not granted: {other:?}"),
    }
}

/// The upstream accepts the hold's task.
pub fn run(hold: HoldId) -> Step {
    run_as(&hold.to_string())
}

pub fn run_as(task: &str) -> Step {
    Step::Run { task: task.into(), raw: None, poll_in: HOUR }
}

/// Success, at list price.
pub fn settle(consumed: i64) -> Step {
    Step::Settle {
        task: None,
        raw: credits(consumed),
        reported: Some(credits(consumed)),
        charge: credits(consumed),
        flag: None,
    }
}

pub fn fail(loss: i64) -> Step {
    Step::Fail { task: None, loss: credits(loss) }
}

pub fn refuse() -> Step {
    Step::Refuse { reason: "refused", possible_loss: Credits::ZERO }
}

pub fn doubt() -> Step {
    Step::Doubt { reason: "no answer" }
}

pub fn write_off(possible_loss: i64) -> Step {
    Step::WriteOff { possible_loss: credits(possible_loss) }
}

/// `[available, held, consumed]`.
pub async fn money(database: &Database, org: OrgId) -> [i64; 3] {
    let balance = database.balance(org).await.unwrap().unwrap();
    [balance.available, balance.held, balance.consumed].map(Credits::get)
}

pub async fn state(database: &Database, org: OrgId, hold: HoldId) -> State {
    database.task_by_hold(org, hold).await.unwrap().unwrap().state
}

/// Its id came to light after its end.
pub fn late_run() -> Step {
    Step::LateRun { task: HoldId::generate().to_string().into(), reason: None, poll_in: HOUR }
}

/// It came to light after its end, and has succeeded.
pub fn late_settle(consumed: i64) -> Step {
    let raw = credits(consumed);
    Step::LateSettle { raw, reported: Some(raw), charge: raw }
}

/// It came to light after its end, and has failed.
pub fn late_fail(loss: i64) -> Step {
    Step::LateFail { loss: credits(loss) }
}
