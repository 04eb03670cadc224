//! What budgets allow, and what they count: levels, defaults, overruns, corrections, changes while they are in use.

use std::time::Duration;

use time::OffsetDateTime;
use tollgate::ids::{BudgetId, HoldId};
use tollgate::store::BudgetLevel::{Key, Organisation, Team, User};
use tollgate::store::Period::{Daily, Monthly, Total, Weekly};
use tollgate::store::{
    BudgetChange, CallerBudget, Fingerprint, HoldGuard, LaneSettings, Ledger, NewHold, Slice, Step,
    StoreError, UserChange, Verdict,
};

use crate::support::database::{TestDatabase, until};
use crate::support::fixture::{
    credits, doubt, fail, grant, lanes, late_run, late_settle, ledger, ledger_with, money, new_hold, refuse,
    run, settle, with_key, write_off,
};
use crate::support::seed::user_named;
use crate::support::tenant::{Tenant, make};

async fn lower(db: &TestDatabase, budget: BudgetId, amount: Option<i64>) {
    let change = BudgetChange { credits: Some(amount.map(credits)), thresholds: None };
    db.database().change_budget(budget, change, None).await.unwrap();
}

/// The budget that does not allow it, and what is left of it.
async fn refused(ledger: &Ledger, new: NewHold) -> (BudgetId, i64) {
    match ledger.reserve(new).await.unwrap() {
        Verdict::OverBudget { budget, left } => (budget, left.get()),
        other => panic!("not over budget: {other:?}"),
    }
}

async fn settled(ledger: &Ledger, new: NewHold, consumed: i64) {
    let mut guard = grant(ledger, new).await;
    guard.step(run(guard.id())).await.unwrap();
    guard.step(settle(consumed)).await.unwrap();
}

fn keep(guard: HoldGuard) -> HoldId {
    let id = guard.id();
    std::mem::forget(guard);
    id
}

#[tokio::test]
async fn each_level_refuses_what_is_above_its_own_budget_and_what_ends_is_free_again() {
    for (level, period) in [(Key, Daily), (User, Weekly), (Team, Monthly), (Organisation, Total)] {
        let db = TestDatabase::new().await;
        let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1000).await);
        let budget = tenant.budget(&db, level, period, 100).await;
        assert_eq!(refused(&ledger, tenant.hold(101)).await, (budget, 100), "{level:?}");
        let mut guard = grant(&ledger, tenant.hold(60)).await;
        assert_eq!(refused(&ledger, tenant.hold(41)).await, (budget, 40), "{level:?}");
        assert_eq!(tenant.drawn(&db).await, [(0, 60, Some(100))]);
        guard.step(refuse()).await.unwrap();
        settled(&ledger, tenant.hold(100), 70).await;
        assert_eq!(tenant.drawn(&db).await, [(70, 0, Some(100))]);
        assert_eq!(refused(&ledger, tenant.hold(31)).await, (budget, 30), "{level:?}");
        keep(grant(&ledger, tenant.hold(30)).await);
        assert_eq!(refused(&ledger, tenant.hold(1)).await, (budget, 0), "{level:?}");
        keep(grant(&ledger, tenant.hold(0)).await);
        assert_eq!(money(db.database(), tenant.org).await, [900, 30, 70]);
    }
}

#[tokio::test]
async fn others_are_not_held_up_by_a_budget_that_is_not_theirs() {
    let db = TestDatabase::new().await;
    let (ledger, tenant, other) =
        (ledger(&db).await, Tenant::new(&db, 1000).await, Tenant::new(&db, 1000).await);
    for level in [Key, User, Team, Organisation] {
        tenant.budget(&db, level, Daily, 0).await;
    }
    keep(grant(&ledger, other.hold(10)).await);
    // Without a key there is no key level, without a team no team level.
    let loner = db.database().add_user(tenant.org, &user_named("grace")).await.unwrap();
    let keyless = NewHold { user: loner, ..new_hold(tenant.org, 10) };
    let organisations = refused(&ledger, keyless.clone()).await.0;
    db.database().delete_budget(organisations, None).await.unwrap();
    keep(grant(&ledger, keyless).await);
    assert_eq!(db.database().budgets_of_caller(tenant.org, loner, None).await.unwrap().len(), 0);
}

#[tokio::test]
async fn all_that_count_must_allow_it_and_the_narrowest_is_named() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1000).await);
    let total = tenant.budget(&db, Key, Total, 50).await;
    let daily = tenant.budget(&db, Key, Daily, 40).await;
    let user = tenant.budget(&db, User, Daily, 30).await;
    let org = tenant.budget(&db, Organisation, Monthly, 20).await;
    for (amount, budget, left) in [(51, daily, 40), (35, user, 30), (25, org, 20)] {
        assert_eq!(refused(&ledger, tenant.hold(amount)).await, (budget, left));
    }
    keep(grant(&ledger, tenant.hold(20)).await);
    let drawn = tenant.drawn(&db).await;
    assert_eq!(drawn, [(0, 20, Some(40)), (0, 20, Some(50)), (0, 20, Some(30)), (0, 20, Some(20))]);
    lower(&db, org, None).await;
    lower(&db, user, Some(1000)).await;
    lower(&db, daily, Some(1000)).await;
    assert_eq!(refused(&ledger, tenant.hold(31)).await, (total, 30));
}

#[tokio::test]
async fn a_budget_of_its_own_goes_before_the_organisations_and_that_before_the_platforms() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 1000).await);
    let platform = make(&db, None, Key, None, Daily, Some(10)).await.unwrap();
    assert_eq!(refused(&ledger, tenant.hold(11)).await, (platform, 10));
    // An organisation that is made later has it too.
    let late = Tenant::new(&db, 1000).await;
    assert_eq!(refused(&ledger, late.hold(11)).await, (platform, 10));
    let org = make(&db, Some(tenant.org), Key, None, Daily, Some(20)).await.unwrap();
    assert_eq!(refused(&ledger, tenant.hold(21)).await, (org, 20));
    let own = tenant.budget(&db, Key, Daily, 30).await;
    assert_eq!(refused(&ledger, tenant.hold(31)).await, (own, 30));
    // Another period is another matter.
    let weekly = make(&db, None, Key, None, Weekly, Some(25)).await.unwrap();
    assert_eq!(refused(&ledger, tenant.hold(26)).await, (weekly, 25));
    db.database().delete_budget(weekly, None).await.unwrap();
    // "No limit" can be said, and is another thing than saying nothing.
    lower(&db, own, None).await;
    keep(grant(&ledger, tenant.hold(500)).await);
    db.database().delete_budget(own, None).await.unwrap();
    assert_eq!(
        refused(&ledger, tenant.hold(1)).await,
        (org, -480),
        "what was spent under the other one counts"
    );
    for budget in [org, platform] {
        db.database().delete_budget(budget, None).await.unwrap();
    }
    keep(grant(&ledger, tenant.hold(500)).await);
    assert_eq!(refused_by_balance(&ledger, tenant.hold(1)).await, 0);
}

async fn refused_by_balance(ledger: &Ledger, new: NewHold) -> i64 {
    match ledger.reserve(new).await.unwrap() {
        Verdict::Insufficient { available } => available.get(),
        other => panic!("not refused by the balance: {other:?}"),
    }
}

#[tokio::test]
async fn a_budget_made_late_finds_what_was_spent_before() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    settled(&ledger, tenant.hold(100), 90).await;
    let mut running = grant(&ledger, tenant.hold(50)).await;
    running.step(run(running.id())).await.unwrap();
    let mut late = grant(&ledger, tenant.hold(40)).await;
    for step in [doubt(), write_off(40), late_run()] {
        late.step(step).await.unwrap();
    }
    let mut charged = grant(&ledger, tenant.hold(30)).await;
    for step in [doubt(), write_off(30), late_run(), late_settle(25)] {
        charged.step(step).await.unwrap();
    }
    for level in [Key, User, Team, Organisation] {
        tenant.budget(&db, level, Daily, 1000).await;
    }
    assert_eq!(tenant.drawn(&db).await, [(115, 50, Some(1000)); 4]);
    // What was open then is followed to its end.
    running.step(settle(60)).await.unwrap();
    late.step(late_settle(7)).await.unwrap();
    assert_eq!(tenant.drawn(&db).await, [(182, 0, Some(1000)); 4]);
    // Made again: what went by meanwhile counts as well, and nothing twice.
    let budgets = db.database().list_budgets(Some(tenant.org), Default::default(), page()).await.unwrap();
    for budget in &budgets {
        db.database().delete_budget(budget.budget_id, None).await.unwrap();
    }
    settled(&ledger, tenant.hold(8), 8).await;
    let open = keep(grant(&ledger, tenant.hold(9)).await);
    let key = tenant.budget(&db, Key, Daily, 1000).await;
    make(&db, None, User, None, Daily, Some(1000)).await.unwrap();
    assert_eq!(tenant.drawn(&db).await, [(190, 9, Some(1000)); 2]);
    ledger.step(tenant.org, open, refuse()).await.unwrap();
    assert_eq!(tenant.drawn(&db).await, [(190, 0, Some(1000)); 2]);
    assert_eq!(refused(&ledger, tenant.hold(811)).await, (key, 810));
}

fn page<Id>() -> Slice<Id> {
    Slice { after: None, limit: 100 }
}

#[tokio::test]
async fn overruns_and_corrections_are_counted_where_their_hold_was() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    let budget = tenant.budget(&db, Key, Daily, 100).await;
    settled(&ledger, tenant.hold(100), 130).await;
    assert_eq!(tenant.drawn(&db).await, [(130, 0, Some(100))], "an overrun may go beyond the cap");
    assert_eq!(refused(&ledger, tenant.hold(1)).await, (budget, -30));
    lower(&db, budget, Some(200)).await;
    let mut late = grant(&ledger, tenant.hold(70)).await;
    for step in [doubt(), write_off(70), late_run()] {
        late.step(step).await.unwrap();
    }
    let mut failed = grant(&ledger, tenant.hold(70)).await;
    failed.step(run(failed.id())).await.unwrap();
    assert_eq!(tenant.drawn(&db).await, [(130, 70, Some(200))]);
    // The window of both is over by now, and another one is open.
    for sql in [
        "update budget_window set starts_at = starts_at - interval '1 day'",
        "update hold set created_at = created_at - interval '1 day'",
    ] {
        sqlx::query(sql).execute(db.pool()).await.unwrap();
    }
    keep(grant(&ledger, tenant.hold(5)).await);
    failed.step(fail(0)).await.unwrap();
    late.step(late_settle(65)).await.unwrap();
    assert_eq!(tenant.drawn(&db).await, [(0, 5, Some(200))]);
    let windows: Vec<(i64, i64)> = sqlx::query_as("select used, held from budget_window order by starts_at")
        .fetch_all(db.pool())
        .await
        .unwrap();
    assert_eq!(windows, [(195, 0), (0, 5)]);
}

#[tokio::test]
async fn a_raise_ends_by_itself_and_a_lowered_budget_keeps_what_it_counted() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    let budget = tenant.budget(&db, User, Monthly, 100).await;
    let database = db.database();
    let soon = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let past = OffsetDateTime::now_utc() - Duration::from_secs(1);
    for (amount, until) in [(100, soon), (150, past)] {
        let answer = database.raise_budget(budget, Some((credits(amount), until)), None).await;
        assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
    }
    database.raise_budget(budget, Some((credits(150), soon)), Some(1)).await.unwrap();
    let stale = database.raise_budget(budget, None, Some(1)).await;
    assert!(matches!(stale, Err(StoreError::Stale { current: 2 })), "{stale:?}");
    keep(grant(&ledger, tenant.hold(150)).await);
    assert_eq!(refused(&ledger, tenant.hold(1)).await, (budget, 0));
    sqlx::query("update budget set raised_until = now()").execute(db.pool()).await.unwrap();
    assert_eq!(refused(&ledger, tenant.hold(1)).await, (budget, -50), "it is over");
    lower(&db, budget, Some(10)).await;
    assert_eq!(tenant.drawn(&db).await, [(0, 150, Some(10))]);
    lower(&db, budget, Some(200)).await;
    keep(grant(&ledger, tenant.hold(50)).await);
    assert_eq!(refused(&ledger, tenant.hold(1)).await, (budget, 0));
    let shown = database.budget(budget).await.unwrap().unwrap();
    assert_eq!(
        (shown.held, shown.used, shown.limit),
        (Some(credits(200)), Some(credits(0)), Some(credits(200)))
    );
}

#[tokio::test]
async fn who_moves_to_another_team_leaves_what_it_spent_behind() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    let other = db.database().create_team(tenant.org, "sound").await.unwrap();
    let first = tenant.budget(&db, Team, Daily, 100).await;
    let second = make(&db, Some(tenant.org), Team, Some(other.to_string()), Daily, Some(50)).await.unwrap();
    let mut open = grant(&ledger, tenant.hold(100)).await;
    assert_eq!(refused(&ledger, tenant.hold(1)).await.0, first);
    let change = UserChange { team: Some(Some(other)), ..UserChange::default() };
    db.database().update_user(tenant.user, change, None).await.unwrap();
    assert_eq!(refused(&ledger, tenant.hold(51)).await, (second, 50));
    keep(grant(&ledger, tenant.hold(20)).await);
    open.step(run(open.id())).await.unwrap();
    open.step(settle(90)).await.unwrap();
    let spent: Vec<(i64, i64)> = sqlx::query_as("select used, held from budget_window order by window_id")
        .fetch_all(db.pool())
        .await
        .unwrap();
    assert_eq!(spent, [(90, 0), (0, 20)]);
    let teams: Vec<(bool, String)> =
        sqlx::query_as("select team_id = $1, task_type from entry where kind = 'consume'")
            .bind(tenant.team.as_uuid())
            .fetch_all(db.pool())
            .await
            .unwrap();
    assert_eq!(teams, [(true, "pro-text-to-video".to_owned())]);
}

#[tokio::test]
async fn each_threshold_is_told_once_a_window() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    let budget = tenant.budget(&db, Key, Daily, 100).await;
    let told = async || -> Vec<(i32, i64)> {
        let events = db.database().budget_events(tenant.org, Some(budget), page()).await.unwrap();
        events.iter().rev().map(|event| (event.threshold, event.spent.get())).collect()
    };
    let mut released = grant(&ledger, tenant.hold(49)).await;
    assert_eq!(told().await, []);
    keep(grant(&ledger, tenant.hold(1)).await);
    assert_eq!(told().await, [(50, 50)]);
    released.step(refuse()).await.unwrap();
    keep(grant(&ledger, tenant.hold(49)).await);
    assert_eq!(told().await, [(50, 50)], "once");
    settled(&ledger, tenant.hold(50), 60).await;
    assert_eq!(told().await, [(50, 50), (80, 100), (100, 100)]);
    let weekly = tenant.budget(&db, Key, Weekly, 1000).await;
    lower(&db, weekly, Some(111)).await;
    settled(&ledger, NewHold { key: None, ..tenant.hold(10) }, 10).await;
    let events = db.database().budget_events(tenant.org, Some(weekly), page()).await.unwrap();
    let thresholds: Vec<i32> = events.iter().map(|event| event.threshold).collect();
    assert_eq!(thresholds, [80, 50], "lowering may reach one");
    assert_eq!(events[0].subject_id, tenant.key.to_string());
    let untold: i64 = count(&db, "select count(*) from budget_event where not told").await;
    assert_eq!(untold, 5);
    db.database().tell_budget_events().await.unwrap();
    assert_eq!(count(&db, "select count(*) from budget_event where not told").await, 0);
    // An overrun may reach one as well.
    let user =
        make(&db, Some(tenant.org), User, Some(tenant.user.to_string()), Daily, Some(1000)).await.unwrap();
    settled(&ledger, NewHold { key: None, ..tenant.hold(10) }, 900).await;
    let events = db.database().budget_events(tenant.org, Some(user), page()).await.unwrap();
    assert_eq!(events.iter().map(|event| event.threshold).collect::<Vec<_>>(), [100, 80, 50]);
}

/// Topping up a budget that never resets must not be the end of its warnings.
#[tokio::test]
async fn under_another_limit_thresholds_are_told_again() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    let budget = tenant.budget(&db, Key, Total, 100).await;
    let mut expected = vec![(50, 100), (80, 100), (100, 100)];
    let told = async || -> Vec<(i32, i64)> {
        let events = db.database().budget_events(tenant.org, Some(budget), page()).await.unwrap();
        events.iter().rev().map(|event| (event.threshold, event.limit.get())).collect()
    };
    keep(grant(&ledger, tenant.hold(100)).await);
    assert_eq!(told().await, expected);
    lower(&db, budget, Some(200)).await;
    keep(grant(&ledger, tenant.hold(59)).await);
    assert_eq!(told().await, expected, "half of it was spent when it was raised");
    keep(grant(&ledger, tenant.hold(1)).await);
    expected.push((80, 200));
    assert_eq!(told().await, expected);
    let soon = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    db.database().raise_budget(budget, Some((credits(400), soon)), None).await.unwrap();
    keep(grant(&ledger, tenant.hold(40)).await);
    expected.push((50, 400));
    assert_eq!(told().await, expected);
    db.database().raise_budget(budget, None, None).await.unwrap();
    expected.push((100, 200));
    assert_eq!(told().await, expected, "and what it was told of under this limit is not told again");
}

async fn count(db: &TestDatabase, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(db.pool()).await.unwrap()
}

#[tokio::test]
async fn a_refusal_by_a_budget_leaves_the_idempotency_key_free_and_does_not_block_what_comes_behind() {
    let db = TestDatabase::new().await;
    let ledger = ledger_with(&db, LaneSettings { lanes: 1, ..lanes() }).await;
    let tenant = Tenant::new(&db, 10_000).await;
    let budget = tenant.budget(&db, Key, Daily, 100).await;
    let keyed = |amount| NewHold {
        user: tenant.user,
        key: Some(tenant.key),
        ..with_key(tenant.org, amount, "again")
    };
    assert_eq!(refused(&ledger, keyed(101)).await, (budget, 100));
    assert!(db.database().claim(tenant.org, "again").await.unwrap().is_none());
    let amounts = [60, 50, 40, 1, 0];
    let verdicts =
        futures_util::future::join_all(amounts.iter().map(|amount| ledger.reserve(tenant.hold(*amount))))
            .await;
    let granted: Vec<bool> = verdicts
        .into_iter()
        .map(|verdict| match verdict.unwrap() {
            Verdict::Granted(guard) => {
                keep(guard);
                true
            }
            Verdict::OverBudget { .. } => false,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(granted, [true, false, true, false, true]);
    lower(&db, budget, Some(101)).await;
    keep(grant(&ledger, keyed(1)).await);
    assert!(db.database().claim(tenant.org, "again").await.unwrap().is_some());
}

#[tokio::test]
async fn who_has_no_key_is_told_of_its_own_doubts_too() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    let other = db.database().add_user(tenant.org, &user_named("grace")).await.unwrap();
    let body =
        |user, key| NewHold { user, key, fingerprint: Fingerprint::of(b"a cat"), ..new_hold(tenant.org, 10) };
    let mut doubted = grant(&ledger, body(tenant.user, None)).await;
    doubted.step(doubt()).await.unwrap();
    let told = ledger.reserve(body(tenant.user, None)).await.unwrap();
    assert!(matches!(told, Verdict::InDoubt(hold) if hold == doubted.id()), "{told:?}");
    let known =
        async |user| db.database().in_doubt(tenant.org, user, Fingerprint::of(b"a cat")).await.unwrap();
    assert_eq!(known(tenant.user).await, Some(doubted.id()));
    // Another key of the same user is no other user.
    let told = ledger.reserve(body(tenant.user, Some(tenant.key))).await.unwrap();
    assert!(matches!(told, Verdict::InDoubt(hold) if hold == doubted.id()), "{told:?}");
    assert_eq!(known(other).await, None);
    keep(grant(&ledger, body(other, None)).await);
    doubted.step(Step::Abandon).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_a_budget_is_refused() {
    let db = TestDatabase::new().await;
    let (tenant, other) = (Tenant::new(&db, 0).await, Tenant::new(&db, 0).await);
    let (org, key) = (Some(tenant.org), Some(tenant.key.to_string()));
    make(&db, org, Key, key.clone(), Daily, Some(1)).await.unwrap();
    let again = make(&db, org, Key, key.clone(), Daily, Some(2)).await;
    assert!(matches!(again, Err(StoreError::Conflict(_))), "{again:?}");
    for (level, subject) in
        [(Key, other.key.to_string()), (User, other.user.to_string()), (Team, other.team.to_string())]
    {
        let foreign = make(&db, org, level, Some(subject), Daily, Some(1)).await;
        assert!(matches!(foreign, Err(StoreError::NotFound(_))), "{foreign:?}");
    }
    for (org, level, subject, amount) in [
        (org, Key, Some(tenant.user.to_string()), 1),
        (org, Organisation, Some(tenant.org.to_string()), 1),
        (None, Key, key, 1),
        (org, Organisation, None, -1),
    ] {
        let wrong = make(&db, org, level, subject, Monthly, Some(amount)).await;
        assert!(matches!(wrong, Err(StoreError::Invalid(_))), "{wrong:?}");
    }
    let drawn: Vec<CallerBudget> =
        db.database().budgets_of_caller(tenant.org, tenant.user, Some(tenant.key)).await.unwrap();
    assert_eq!(drawn.len(), 1);
}

/// What a reservation draws on is looked up before it has the organisation's row.
#[tokio::test]
async fn a_budget_made_while_a_reservation_waits_counts_for_it() {
    let db = TestDatabase::new().await;
    let (ledger, tenant) = (ledger(&db).await, Tenant::new(&db, 10_000).await);
    for round in 0..2 {
        let mut change = db.pool().begin().await.unwrap();
        let sql = if round == 0 {
            "insert into budget (budget_id, org_id, level, period, credits) values (gen_random_uuid(), $1, 'org', 'total', 50)"
        } else {
            "update budget set credits = 20 where org_id = $1"
        };
        sqlx::query("select from org_balance where org_id = $1 for no key update")
            .bind(tenant.org.as_uuid())
            .execute(&mut *change)
            .await
            .unwrap();
        sqlx::query(sql).bind(tenant.org.as_uuid()).execute(&mut *change).await.unwrap();
        // It is in force when it is counted.
        let advance = "select advance_count(org_id, budget_id, 10, 10) from budget_count";
        while sqlx::query(advance).fetch_optional(&mut *change).await.unwrap().is_some() {}
        let waiting = ledger.reserve(tenant.hold(60 - 30 * round));
        let committing = async {
            until("it waits for the row", async || {
                let waits = "select count(*) from pg_stat_activity \
                             where datname = current_database() and wait_event_type = 'Lock'";
                count(&db, waits).await > 0
            })
            .await;
            change.commit().await.unwrap();
        };
        let (verdict, ()) = tokio::join!(waiting, committing);
        let left = if round == 0 { 50 } else { 20 };
        assert!(
            matches!(verdict, Ok(Verdict::OverBudget { left: told, .. }) if told.get() == left),
            "{verdict:?}"
        );
    }
}
