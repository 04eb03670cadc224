//! The audit finds each thing that must never be true, under its name, and nothing where there is nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::RngExt;
use tokio::task::JoinSet;
use tollgate::clock::Clock;
use tollgate::ids::{HoldId, OrgId};
use tollgate::store::{Ledger, Once, Step, Why};

use crate::support::database::TestDatabase;
use crate::support::fixture::{
    credits, doubt, fail, funded, grant, late_fail, late_run, late_settle, ledger, new_hold, refuse, run,
    settle, with_key, write_off,
};
use crate::support::seed::TOP_UP;

const ORGS: &str = "every organisation has a balance, and every balance an organisation";
const SUM: &str = "available + held + consumed = granted";
const HELD: &str = "held = sum of open holds";
const ENTRIES: &str = "granted and consumed = sums of entries";
const COUNTERS: &str = "open tasks and tasks in doubt are counted";
const CONSUME: &str = "a settled task has exactly one consume, of what was charged; no other has one";
const OVERRUN: &str = "an overrun is what was charged above the hold";
const ADMISSION: &str = "no admission took the balance below its overdraft";
const AMOUNT: &str = "a hold is its list price times its factor, rounded up";
const CHARGE: &str = "a charge is what the upstream consumed times the factor, rounded up";
const LOSS: &str = "a written-off task has its loss";
const LOST: &str = "a loss belongs to a task that no tenant paid for";
const LATE: &str = "a task that came to light after its end is charged by corrections, and no other is";
const CORRECTION: &str = "a correction belongs to a hold";
const KEY: &str = "an idempotency key points to what it made";
const TOTALS: &str = "sums of entries = entries";
const TASKS: &str = "sums of tasks = tasks";
const USAGE: &str = "usage by day = entries of tasks";
const TRANSFER: &str = "a transfer has two halves";
const LOT: &str = "a grant that runs out was granted, and what was taken back of it is in the ledger";
const POOL: &str = "what an organisation has = credits that do not run out + what is left of those that do + what is not attributed";
const OPEN_KEY: &str = "an open hold keeps its idempotency key";
const COST: &str = "what a task cost the platform is in its losses";
const KEPT: &str = "a create keeps its idempotency key, and its body, for as long as keys are kept";
const ANSWER: &str = "a call that moved credits keeps its answer";
const BOOKED: &str = "what a task cost is booked on who made it, and not before";
const DRAWN: &str = "a task that drew on budgets is counted in their windows";
const OPEN: &str = "a task goes on while it is open, and no longer";
const VENDOR: &str = "the vendor's id of a task is known once";
const LISTED: &str = "tasks that nobody paid for, and those that drifted, are listed";
const BY_HAND: &str = "what an operator recorded of a task is in the audit log";
const RULES: &str = "the steps in the life of a task are those of this version";
const GUARDS: &str = "the triggers that guard the books are on";
const CHAIN: &str =
    "entries follow one another: each has the balance before it and its amount, and is as it was booked";
const HISTORY: &str = "entries and holds of before there were seals are those that were there";
const HOLD: &str = "a hold is as it was made, in price, factor, account and windows";
const ENDS: &str =
    "a grant that runs out ends when it was granted to end, and its journal says what was burned of it";
const LOGGED: &str = "what people and expiry booked is in the audit log, as it was booked";

/// An organisation with a hold in every state, each with an idempotency key.
async fn live(db: &TestDatabase) -> OrgId {
    let (ledger, org) = (ledger(db).await, funded(db, 0).await);
    let once = Once { key: "top-up", body: b"" };
    db.database().grant(org, credits(10_000), None, TOP_UP, Some(once)).await.unwrap();
    for (name, steps) in [
        ("held", vec![]),
        ("running", vec![run(HoldId::generate())]),
        ("in doubt", vec![doubt()]),
        ("settled", vec![run(HoldId::generate()), settle(300)]),
        ("overrun", vec![run(HoldId::generate()), settle(401)]),
        ("failed", vec![run(HoldId::generate()), fail(5)]),
        ("refused", vec![refuse()]),
        ("written off", vec![doubt(), write_off(400)]),
        ("late", vec![doubt(), write_off(400), late_run(), late_settle(300)]),
        ("late and failed", vec![doubt(), write_off(400), late_run(), late_fail(200)]),
    ] {
        let mut guard = grant(&ledger, with_key(org, 400, name)).await;
        for step in steps {
            guard.step(step).await.unwrap();
        }
        std::mem::forget(guard);
    }
    ledger.shut_down().await;
    org
}

/// Past the triggers, as nothing of ours does.
async fn break_it(db: &TestDatabase, statement: &str) {
    let sql = format!("begin; set local session_replication_role = replica; {statement}; commit");
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db.pool()).await.unwrap();
}

#[tokio::test]
async fn each_breach_is_found_by_name_and_nothing_else_is() {
    let original = TestDatabase::new().await;
    live(&original).await;
    let before = original.database().audit().await.unwrap();
    assert_eq!((before.breaches, before.warnings), (vec![], vec![]));
    assert_eq!((before.orgs, before.holds, before.entries), (1, 10, 4));
    for (statement, expected) in [
        ("delete from org", &[ORGS][..]),
        ("insert into org (org_id, name) values (gen_random_uuid(), 'no balance')", &[ORGS]),
        ("delete from org_balance", &[ORGS, HELD, ENTRIES, COUNTERS]),
        ("update org_balance set deleted = true", &[ORGS]),
        ("update org_balance set available = available + 1", &[SUM]),
        ("update org_balance set available = available - 1", &[SUM]),
        ("update org_balance set available = 9223372036854775807", &[SUM]),
        ("update org_balance set held = held + 1, available = available - 1", &[HELD]),
        ("update org_balance set granted = granted + 1, available = available + 1", &[ENTRIES]),
        ("update org_balance set consumed = consumed + 1, available = available - 1", &[ENTRIES]),
        ("update org_balance set open_tasks = open_tasks + 1", &[COUNTERS]),
        ("update org_balance set in_doubt = 0", &[COUNTERS]),
        ("delete from hold where idem_key = 'held'", &[HELD, COUNTERS, KEY, OPEN]),
        ("delete from hold where idem_key = 'settled'", &[CONSUME, KEY, VENDOR]),
        ("delete from hold where idem_key = 'refused'", &[LISTED]),
        ("delete from open_task where state = 'HELD'", &[HELD, COUNTERS, OPEN]),
        ("update open_task set hold_id = gen_random_uuid() where state = 'HELD'", &[HELD, COUNTERS, OPEN]),
        ("update open_task set reopened = true where state = 'RUNNING'", &[HELD, COUNTERS, OPEN]),
        ("delete from vendor_task", &[VENDOR]),
        ("update vendor_task set hold_id = gen_random_uuid()", &[VENDOR]),
        ("update vendor_task set upstream_task = upstream_task || ' and more'", &[VENDOR]),
        ("delete from unpaid_task", &[LISTED]),
        ("update unpaid_task set user_id = gen_random_uuid()", &[LISTED]),
        ("update hold set drift = 1 where idem_key = 'settled'", &[LISTED]),
        (
            "insert into drifted_task (org_id, hold_id, ended_at) select org_id, hold_id, now() from hold where drift = 0",
            &[LISTED],
        ),
        ("update hold set amount = amount + 1 where idem_key = 'held'", &[HELD, AMOUNT, HOLD]),
        ("update hold set amount = amount + 1 where idem_key = 'failed'", &[AMOUNT, HOLD]),
        ("update hold set factor_bp = 9999 where idem_key = 'failed'", &[HOLD]),
        ("update hold set factor_bp = 9974 where idem_key = 'failed'", &[AMOUNT, HOLD]),
        ("update hold set balance_after = -1 where idem_key = 'failed'", &[ADMISSION, HOLD]),
        ("update hold set balance_after = -7, overdraft = 7 where idem_key = 'failed'", &[HOLD]),
        ("update open_task set state = 'IN_DOUBT', doubt_at = now() where state = 'RUNNING'", &[COUNTERS]),
        ("update hold set state = 'RELEASED', charged = null where idem_key = 'settled'", &[CONSUME, LISTED]),
        (
            "update hold set state = 'SETTLED', charged = 0, raw_consumed = 0 where idem_key = 'failed'",
            &[CONSUME, LOST, LISTED],
        ),
        ("update hold set charged = 299 where idem_key = 'settled'", &[CONSUME, CHARGE]),
        ("update hold set raw_consumed = 301 where idem_key = 'settled'", &[CHARGE]),
        ("update hold set raw_consumed = null where idem_key = 'settled'", &[CHARGE]),
        ("update entry set overrun = 0 where overrun > 0", &[OVERRUN, CHAIN]),
        ("update entry set overrun = 1 where kind = 'consume'", &[OVERRUN, CHAIN]),
        ("update entry set amount = amount + 1 where kind = 'grant'", &[ENTRIES, CHAIN, LOGGED]),
        ("update entry set amount = amount - 1 where kind = 'consume'", &[ENTRIES, CONSUME, USAGE, CHAIN]),
        ("delete from entry where kind = 'grant'", &[ENTRIES, KEY, CHAIN, LOGGED]),
        ("delete from entry where kind = 'consume'", &[ENTRIES, CONSUME, USAGE, CHAIN]),
        (
            "insert into entry (org_id, entry_id, kind, amount, created_at) \
             select org_id, gen_random_uuid(), 'adjust', -1, now() from org",
            &[ENTRIES, CHAIN, HISTORY, LOGGED],
        ),
        (
            "insert into entry (org_id, entry_id, kind, amount, hold_id, task_type, created_at) \
             select org_id, hold_id, 'consume', 0, hold_id, task_type, now() from task where idem_key = 'refused'",
            &[CONSUME, USAGE, BOOKED, CHAIN, HISTORY],
        ),
        (
            "insert into entry (org_id, entry_id, kind, amount, hold_id, task_type, created_at) \
             select org_id, gen_random_uuid(), 'correct', 0, gen_random_uuid(), 't', now() from org",
            &[CORRECTION, LATE, USAGE, CHAIN, HISTORY],
        ),
        ("update hold set late = 'lost' where idem_key = 'late'", &[LATE]),
        ("update hold set late = 'charged' where idem_key = 'failed'", &[LOST, LATE]),
        ("update hold set raw_consumed = 301 where idem_key = 'late'", &[LATE]),
        ("update entry set amount = amount - 1 where kind = 'correct'", &[ENTRIES, LATE, USAGE, CHAIN]),
        ("update platform_loss set amount = -399 where amount = -400", &[LOST, COST]),
        ("delete from platform_loss where possible", &[LOSS, COST]),
        (
            "delete from platform_loss where hold_id = (select hold_id from task where idem_key = 'failed')",
            &[COST],
        ),
        ("update platform_loss set amount = amount + 1 where amount = 5", &[COST]),
        ("update hold set lost = lost + 1 where idem_key = 'refused'", &[COST]),
        ("update platform_loss set hold_id = gen_random_uuid() where not possible", &[LOST, COST]),
        ("update idempotency set hold_id = gen_random_uuid() where key = 'settled'", &[KEY, KEPT]),
        ("update idempotency set hold_id = gen_random_uuid() where key = 'running'", &[KEY, OPEN_KEY, KEPT]),
        ("update idempotency set hold_id = gen_random_uuid() where key = 'top-up'", &[KEY]),
        ("update idempotency set key = 'other' where key = 'failed'", &[KEY]),
        ("delete from idempotency where key in ('held', 'settled')", &[OPEN_KEY, KEPT]),
        ("delete from idempotency where key = 'settled'", &[KEPT]),
        ("delete from idempotency where key = 'written off'", &[KEPT]),
        ("update idempotency set fingerprint = '\\x00' where key = 'settled'", &[KEPT]),
        ("delete from idempotency where key = 'settled'; update forgotten_keys set made_before = now()", &[]),
        ("update idempotency set answer = null where key = 'top-up'", &[ANSWER]),
        ("update entry set user_id = gen_random_uuid() where kind = 'consume'", &[USAGE, BOOKED, CHAIN]),
        ("update entry set key_id = gen_random_uuid() where kind = 'correct'", &[USAGE, BOOKED, CHAIN]),
        (
            "update entry set created_at = created_at - interval '1 day' where kind = 'consume'",
            &[USAGE, BOOKED, CHAIN],
        ),
        ("update hold set budget_after = 0 where idem_key = 'settled'", &[DRAWN, HOLD]),
        ("update hold set by_hand = '{\"task_id\": \"n75\"}' where idem_key = 'settled'", &[BY_HAND]),
        (
            "insert into transition (kind, from_state, to_state) values ('settle', 'HELD', 'SETTLED')",
            &[RULES],
        ),
        ("update transition set to_state = 'RELEASED' where kind = 'settle'", &[RULES]),
        ("delete from transition where kind = 'late_drop'", &[RULES]),
        ("alter table entry disable trigger entry_append_only", &[GUARDS]),
        ("alter table entry_other disable trigger entry_append_only", &[GUARDS]),
        ("drop trigger entry_no_truncate on entry_other", &[GUARDS]),
        ("delete from correction", &[CORRECTION]),
        ("update correction set seq = 2", &[CORRECTION]),
        ("update org_balance set entries = entries + 1", &[CHAIN]),
        ("alter table org disable trigger org_epoch", &[GUARDS]),
        ("drop trigger platform_loss_append_only on platform_loss", &[GUARDS]),
        ("alter table hold disable trigger hold_sealed", &[GUARDS]),
        ("drop trigger label_append_only on label", &[GUARDS]),
        ("alter table label_other disable trigger label_append_only", &[GUARDS]),
        ("alter table credit_lot_event disable trigger credit_lot_event_no_truncate", &[GUARDS]),
        // All that is counted is shifted alike.
        (
            "update entry set amount = amount - 1 where hold_id = (select hold_id from hold where idem_key = 'settled'); \
             update hold set charged = charged + 1, raw_consumed = raw_consumed + 1, reported = reported + 1 \
             where idem_key = 'settled'; update usage_day set charged = charged + 1; \
             update org_balance set consumed = consumed + 1, available = available - 1",
            &[CHAIN],
        ),
        (
            "update entry set kind = 'adjust' where kind = 'grant'; \
             update audit_log set after = after || '{\"kind\": \"adjust\"}' where target_kind = 'entry'",
            &[CHAIN],
        ),
        (
            "update entry set place = place + 100 where place in (2, 3); update entry set place = 105 - place where place > 100",
            &[CHAIN],
        ),
        ("update entry set seal = null where kind = 'consume'", &[CHAIN]),
        ("update entry set place = null where kind = 'correct'", &[CHAIN, HISTORY]),
        ("delete from audit_log where target_kind = 'entry'", &[LOGGED]),
        ("update hold set amount = 800, list_price = 800 where idem_key = 'failed'", &[HOLD]),
        (
            "update hold set list_price = 2 * list_price, factor_bp = 5000 where idem_key = 'settled'",
            &[CHARGE, HOLD],
        ),
        ("update hold set price_book = 2 where idem_key = 'refused'", &[HOLD]),
        ("update hold set task_type = 'other' where idem_key = 'held'", &[HOLD]),
        ("update hold set account = 'another' where idem_key = 'held'", &[OPEN, HOLD]),
        ("update hold set account = 'another' where idem_key = 'settled'", &[VENDOR, HOLD]),
        ("update open_task set account = 'another' where state = 'HELD'", &[OPEN]),
        (
            "update hold set account = 'another'; update open_task set account = 'another'; \
             update vendor_task set account = 'another'",
            &[HOLD],
        ),
        ("update hold set seal = null where idem_key = 'failed'", &[HISTORY, HOLD]),
        ("insert into history_seal select org_id, 1, 0, 0, 0 from org", &[HISTORY]),
        ("delete from history_seal", &[HISTORY]),
        ("update usage_day set tasks = tasks + 1", &[USAGE]),
        ("update usage_day set charged = charged + 1, corrected = corrected - 1", &[USAGE]),
        ("update usage_day set day = day - 1", &[USAGE]),
        ("update usage_day set user_id = gen_random_uuid()", &[USAGE]),
        ("delete from usage_day", &[USAGE]),
        ("insert into total_place select org_id, 3 from org", &[TOTALS]),
        (
            "insert into total_place (org_id) select org_id from org; select add_to_totals(org_id, 9) from org; \
          update total_place set place = place - 1",
            &[TOTALS],
        ),
        (
            "insert into total_place (org_id) select org_id from org; select add_to_totals(org_id, 9) from org; \
          update entry_total set amount = amount + 1 where kind = 'grant'",
            &[TOTALS],
        ),
        (
            "insert into total_place (org_id) select org_id from org; select add_to_totals(org_id, 9) from org; \
          update usage_total set corrected = corrected + 1",
            &[TOTALS],
        ),
        (
            "insert into total_place (org_id) select org_id from org; select add_to_totals(org_id, 9) from org; \
          update usage_member set charged = charged + 1 where kind = 'key'",
            &[TOTALS],
        ),
        ("select add_tasks_to_totals(9); update task_place set place = 0", &[TASKS]),
        ("select add_tasks_to_totals(9); update drift_total set reported = reported + 1", &[TASKS]),
        ("select add_tasks_to_totals(9); update price_total set charged = charged + 1", &[TASKS]),
    ] {
        let mut db = original.copy().await;
        db.expect_broken();
        break_it(&db, statement).await;
        let report = db.database().audit().await.unwrap();
        let mut found: Vec<_> = report.breaches.iter().map(|finding| finding.check).collect();
        found.dedup();
        assert_eq!(found, expected, "{statement}");
        assert!(
            report
                .breaches
                .iter()
                .all(|finding| finding.detail.contains("org") || finding.detail.contains("balance"))
        );
    }
}

/// Two organisations with a transfer between them; one has a grant that ran out in part, and one that has not.
async fn dealing(db: &TestDatabase) {
    let (from, to) = (funded(db, 0).await, funded(db, 1000).await);
    let why = Why { reason: "r", external_ref: None };
    let database = db.database();
    let tomorrow = Clock.wall() + Duration::from_secs(86_400);
    database.grant(from, credits(100), Some(tomorrow), why, None).await.unwrap();
    database.transfer(from, to, credits(30), why, Some(Once { key: "move", body: b"{}" })).await.unwrap();
    database.expire_credits_of(from, Some(tomorrow)).await.unwrap();
    database.grant(from, credits(50), Some(tomorrow), why, None).await.unwrap();
    database.expire_credits().await.unwrap();
    database.adjust(from, credits(-10), why, None).await.unwrap();
}

#[tokio::test]
async fn each_breach_of_what_operators_move_is_found_by_name() {
    let original = TestDatabase::new().await;
    dealing(&original).await;
    assert_eq!(original.database().audit().await.unwrap().breaches, []);
    for (statement, expected) in [
        (
            "update entry set related_entry = gen_random_uuid() where kind = 'transfer' and amount > 0",
            &[TRANSFER, CHAIN][..],
        ),
        (
            "update entry set amount = amount + 1 where kind = 'transfer' and amount > 0",
            &[ENTRIES, TRANSFER, CHAIN, LOGGED],
        ),
        ("delete from entry where kind = 'transfer' and amount > 0", &[ENTRIES, TRANSFER, CHAIN, LOGGED]),
        ("update entry set related_entry = gen_random_uuid() where kind = 'expire'", &[LOT, CHAIN]),
        ("update entry set amount = amount - 1 where kind = 'expire'", &[ENTRIES, LOT, CHAIN, LOGGED]),
        ("delete from entry where kind = 'expire'", &[ENTRIES, LOT, CHAIN, LOGGED]),
        ("update credit_lot set expired = 0, burned = burned + expired where expired > 0", &[LOT, ENDS]),
        ("update credit_lot set amount = amount + 1, burned = burned + 1", &[LOT, ENDS]),
        ("update credit_lot set burned = 1 where burned = 0", &[POOL, ENDS]),
        ("delete from credit_lot where expired = 0", &[POOL, ENDS]),
        ("delete from credit_lot where expired > 0", &[LOT, ENDS]),
        ("update credit_lot set expires_at = expires_at + interval '1 day'", &[ENDS]),
        (
            "update credit_lot set burned = burned - 1 where expired > 0; update credit_lot set burned = burned + 1 where expired = 0",
            &[ENDS],
        ),
        (
            "update credit_lot set burned = burned + 1 where expired = 0; update credit_pool set credits = credits + 1",
            &[ENDS],
        ),
        ("delete from credit_lot_event where burned > 0", &[ENDS]),
        (
            "delete from entry where kind = 'adjust'; update org_balance set granted = granted + 10, available = available + 10 \
             where org_id in (select org_id from credit_pool)",
            &[CHAIN, LOGGED],
        ),
        ("update credit_pool set credits = credits + 1", &[POOL]),
        ("delete from credit_pool", &[POOL]),
        ("delete from credit_event", &[POOL]),
        (
            "insert into credit_event (org_id, entry_id) select org_id, entry_id from entry where kind = 'transfer'",
            &[POOL],
        ),
        ("update idempotency set hold_id = gen_random_uuid()", &[KEY]),
    ] {
        let mut db = original.copy().await;
        db.expect_broken();
        break_it(&db, statement).await;
        let mut found: Vec<_> =
            db.database().audit().await.unwrap().breaches.iter().map(|f| f.check).collect();
        found.dedup();
        assert_eq!(found, expected, "{statement}");
    }
}

#[tokio::test]
async fn old_unfinished_work_is_a_warning_and_no_breach() {
    let db = TestDatabase::new().await;
    live(&db).await;
    sqlx::raw_sql(
        "update hold set created_at = now() - interval '61 min'; \
         update open_task set doubt_at = doubt_at - interval '61 min', due_at = now() - interval '11 min'",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let report = db.database().audit().await.unwrap();
    assert_eq!(report.breaches, []);
    let warnings: Vec<_> = report.warnings.iter().map(|finding| finding.check).collect();
    assert_eq!(
        warnings,
        [
            "a poll is more than ten minutes late",
            "held for more than ten minutes without an answer on record",
            "in doubt for more than an hour"
        ]
    );
}

/// Any life, with the odds of going on to the next step.
async fn any_life(ledger: &Ledger, org: OrgId) {
    let key = HoldId::generate().to_string();
    let keyed = rand::rng().random_bool(0.5);
    let mut guard = grant(ledger, if keyed { with_key(org, 10, &key) } else { new_hold(org, 10) }).await;
    let step = [run(guard.id()), doubt(), refuse()][rand::rng().random_range(0..3)].clone();
    guard.step(step).await.unwrap();
    let step = [settle(10), settle(12), fail(1), Step::WriteOff { possible_loss: credits(10) }]
        [rand::rng().random_range(0..4)]
    .clone();
    guard.step(step).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_of_a_running_system_finds_nothing() {
    let db = TestDatabase::new().await;
    let gateways = [ledger(&db).await, ledger(&db).await];
    let orgs = [funded(&db, 1_000_000).await, funded(&db, 1_000_000).await];
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for caller in 0..32 {
        let (gateway, stop) = (gateways[caller % 2].clone(), stop.clone());
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                any_life(&gateway, orgs[caller / 2 % 2]).await;
            }
        });
    }
    let mut holds = 0;
    for _ in 0..15 {
        let report = db.database().audit().await.unwrap();
        assert_eq!(report.breaches, []);
        assert!(report.holds >= holds);
        holds = report.holds;
    }
    stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    let end = db.database().audit().await.unwrap();
    assert!(holds > 0 && end.holds > holds, "the load went on all the time");
}
