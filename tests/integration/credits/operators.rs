//! What operators move: grants, corrections, transfers; each once for its key, none below what is allowed, each on record.

use std::time::Duration;

use time::OffsetDateTime;
use tollgate::clock::Clock;
use tollgate::credits::Credits;
use tollgate::ids::OrgId;
use tollgate::secret::Secret;
use tollgate::store::{Actor, Database, EntryFilter, EntryKind, Once, OrgChange, StoreError, Why};

use crate::support::database::{PATIENCE, TestDatabase, ahead, until};
use crate::support::fixture::{credits, funded, grant, ledger, money, new_hold, run, settle};
use crate::support::seed::acting;

const WHY: Why<'static> = Why { reason: "invoice paid", external_ref: Some("inv-1") };

fn once(key: &'static str, body: &'static str) -> Option<Once<'static>> {
    Some(Once { key, body: body.as_bytes() })
}

fn is_conflict<T: std::fmt::Debug>(answer: Result<T, StoreError>, words: &str) {
    match answer {
        Err(StoreError::Conflict(why)) if why.contains(words) => {}
        other => panic!("not a conflict with '{words}': {other:?}"),
    }
}

fn is_invalid<T: std::fmt::Debug>(answer: Result<T, StoreError>, words: &str) {
    match answer {
        Err(StoreError::Invalid(why)) if why.contains(words) => {}
        other => panic!("not invalid with '{words}': {other:?}"),
    }
}

#[tokio::test]
async fn a_grant_has_its_reason_reference_end_and_actor_on_record() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 0).await;
    let operator = Actor { name: "operator:ann".into(), address: None, action: None, request_id: None };
    let database = db.database().acting(operator);
    let end = Clock.wall() + Duration::from_secs(3600);
    let done = database.grant(org, credits(500), Some(end), WHY, None).await.unwrap();
    assert_eq!((done.replayed, done.answer.available), (false, credits(500)));
    database.adjust(org, credits(-20), Why { reason: "typo", external_ref: None }, None).await.unwrap();

    let entries = database.entries(org, &EntryFilter::default(), 10).await.unwrap();
    let [adjusted, granted] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(
        (granted.kind, granted.credits, granted.entry_id),
        (EntryKind::Grant, credits(500), done.answer.entry_id)
    );
    assert_eq!(
        (granted.reason.as_deref(), granted.external_ref.as_deref()),
        (Some("invoice paid"), Some("inv-1"))
    );
    assert_eq!(granted.actor.as_deref(), Some("operator:ann"));
    assert_eq!(granted.expires_at.map(|at| at.unix_timestamp()), Some(end.unix_timestamp()));
    assert_eq!((adjusted.kind, adjusted.credits), (EntryKind::Adjust, credits(-20)));
    let logged: i64 = sqlx::query_scalar(
        "select count(*) from audit_log where target_kind = 'entry' and actor = 'operator:ann' and org_id = $1",
    )
    .bind(org.as_uuid())
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(logged, 2);
}

#[tokio::test]
async fn a_list_of_entries_is_filtered_and_goes_on_where_it_stopped() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 0).await);
    let database = db.database();
    for n in 0..5 {
        let reference = format!("inv-{}", n % 2);
        let why = Why { reason: "r", external_ref: Some(&reference) };
        database.grant(org, credits(100 + n), None, why, None).await.unwrap();
    }
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    guard.step(run(guard.id())).await.unwrap();
    guard.step(settle(90)).await.unwrap();

    let all = database.entries(org, &EntryFilter::default(), 100).await.unwrap();
    let amounts: Vec<i64> = all.iter().map(|entry| entry.credits.get()).collect();
    assert_eq!(amounts, [-90, 104, 103, 102, 101, 100]);
    assert_eq!(all[0].hold_id, Some(guard.id()));
    assert_eq!(all[0].task_id.as_deref(), Some(&*guard.id().to_string()));
    assert_eq!(all[0].task_type.as_deref(), Some("pro-text-to-video"));

    let mut paged = Vec::new();
    let mut filter = EntryFilter::default();
    loop {
        let page = database.entries(org, &filter, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.place());
        paged.extend(page.iter().map(|entry| entry.credits.get()));
    }
    assert_eq!(paged, amounts);

    let of = async |filter: EntryFilter| {
        let entries = database.entries(org, &filter, 100).await.unwrap();
        entries.iter().map(|entry| entry.credits.get()).collect::<Vec<_>>()
    };
    let filter = EntryFilter { external_ref: Some("inv-1".into()), ..EntryFilter::default() };
    assert_eq!(of(filter).await, [103, 101]);
    let filter = EntryFilter { kind: Some(EntryKind::Consume), ..EntryFilter::default() };
    assert_eq!(of(filter).await, [-90]);
    let (since, until) = (Some(all[4].created_at), Some(all[2].created_at));
    assert_eq!(of(EntryFilter { since, until, ..EntryFilter::default() }).await, [102, 101]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_calls_with_one_key_through_two_gateways_one_counts() {
    let db = TestDatabase::new().await;
    let (org, other) = (funded(&db, 1000).await, funded(&db, 1000).await);
    let second = acting(&Database::connect(&Secret::new(db.url()), 8, PATIENCE).unwrap());
    let gateways = [db.database(), &second];
    let body = r#"{"credits":500,"reason":"may"}"#;

    let grants = (0..50).map(|n| gateways[n % 2].grant(org, credits(500), None, WHY, once("k", body)));
    let answers = futures_util::future::try_join_all(grants).await.unwrap();
    assert_eq!(answers.iter().filter(|done| !done.replayed).count(), 1);
    assert!(answers.iter().all(|done| done.answer == answers[0].answer), "all get the one answer");

    let moves = (0..50).map(|n| gateways[n % 2].transfer(org, other, credits(70), WHY, once("k", "move")));
    let answers = futures_util::future::try_join_all(moves).await.unwrap();
    assert_eq!(answers.iter().filter(|done| !done.replayed).count(), 1);
    assert!(answers.iter().all(|done| done.answer == answers[0].answer));
    assert_eq!(money(db.database(), org).await, [1430, 0, 0]);
    assert_eq!(money(db.database(), other).await, [1070, 0, 0]);
}

#[tokio::test]
async fn a_key_with_another_body_or_organisation_is_refused_and_a_refused_call_leaves_it_free() {
    let db = TestDatabase::new().await;
    let (org, other) = (funded(&db, 100).await, funded(&db, 0).await);
    let database = db.database();
    database.grant(org, credits(5), None, WHY, once("k", "five")).await.unwrap();
    for answer in [
        database.grant(org, credits(6), None, WHY, once("k", "six")).await,
        database.grant(other, credits(5), None, WHY, once("k", "five")).await,
    ] {
        assert!(matches!(answer, Err(StoreError::KeyReused)), "{answer:?}");
    }
    assert!(
        !database.adjust(org, credits(5), WHY, once("k", "five")).await.unwrap().replayed,
        "another endpoint"
    );

    is_conflict(
        database.adjust(org, credits(-111), WHY, once("free", "take")).await,
        "110 credits available",
    );
    let taken = database.adjust(org, credits(-110), WHY, once("free", "take less")).await.unwrap();
    assert_eq!((taken.replayed, taken.answer.available), (false, credits(0)));
    // A replay needs no balance.
    let again = database.adjust(org, credits(-110), WHY, once("free", "take less")).await.unwrap();
    assert_eq!((again.replayed, again.answer), (true, taken.answer));
    assert_eq!(money(database, org).await, [0, 0, 0]);

    assert_eq!(database.forget_old_claims(-1).await.unwrap(), 3, "they age like any other key");
    assert_eq!(database.audit().await.unwrap().breaches, []);
    assert!(!database.grant(org, credits(5), None, WHY, once("k", "five")).await.unwrap().replayed);
}

#[tokio::test]
async fn what_waited_for_the_balance_is_dated_after_what_it_waited_for() {
    let db = TestDatabase::new().await;
    let org = funded(&db, 0).await;
    let end = ahead(async |end| {
        db.database().grant(org, credits(50), Some(end), WHY, None).await.ok().map(|_| end)
    })
    .await;
    until("it has run out", async || Clock.wall() > end).await;

    let mut other = db.pool().begin().await.unwrap();
    sqlx::query("select from org_balance for no key update").execute(&mut *other).await.unwrap();
    let (granting, expiring) = (db.database().clone(), db.database().clone());
    let granting = tokio::spawn(async move { granting.grant(org, credits(5), None, WHY, None).await });
    let expiring = tokio::spawn(async move { expiring.expire_credits_of(org, None).await });
    until("both wait", async || {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(db.pool()).await.unwrap() == 2
    })
    .await;
    let released: OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut *other).await.unwrap();
    other.commit().await.unwrap();
    granting.await.unwrap().unwrap();
    assert_eq!(expiring.await.unwrap().unwrap(), credits(50));
    let entries = db.database().entries(org, &EntryFilter::default(), 2).await.unwrap();
    assert!(entries.iter().all(|entry| entry.created_at > released), "{released}: {entries:?}");
}

#[tokio::test]
async fn a_transfer_gives_what_is_there_and_moves_nothing_otherwise() {
    let db = TestDatabase::new().await;
    let (ledger, from, to) = (ledger(&db).await, funded(&db, 1000).await, funded(&db, 0).await);
    let database = db.database();
    let overdraft = OrgChange { overdraft: Some(credits(500)), ..OrgChange::default() };
    database.update_org(from, overdraft, None).await.unwrap();
    let _guard = grant(&ledger, new_hold(from, 400)).await;
    is_conflict(database.transfer(from, to, credits(601), WHY, None).await, "600 credits available");
    let done = database.transfer(from, to, credits(600), WHY, None).await.unwrap().answer;
    assert_eq!((done.from_available, done.to_available), (credits(0), credits(600)));
    is_conflict(database.transfer(from, to, credits(1), WHY, None).await, "0 credits available");
    assert_eq!(
        database.adjust(from, credits(-500), WHY, None).await.unwrap().answer.available,
        credits(-500)
    );
    is_conflict(database.adjust(from, credits(-1), WHY, None).await, "-500 credits available");

    let [given] = &database.entries(to, &EntryFilter::default(), 10).await.unwrap()[..] else { panic!() };
    assert_eq!(
        (given.kind, given.entry_id, given.related_entry),
        (EntryKind::Transfer, done.to_entry, Some(done.from_entry))
    );

    let nobody = OrgId::generate();
    for answer in [
        database.transfer(nobody, to, credits(1), WHY, None).await,
        database.transfer(to, nobody, credits(1), WHY, None).await,
    ] {
        assert!(matches!(answer, Err(StoreError::NotFound(_))), "{answer:?}");
    }
    let full = funded(&db, i64::MAX).await;
    is_conflict(database.transfer(to, full, credits(1), WHY, None).await, "do not fit");
    assert_eq!(money(database, to).await, [600, 0, 0]);
    assert_eq!(money(database, full).await, [i64::MAX, 0, 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_in_a_circle_do_not_wait_for_one_another_for_ever() {
    let db = TestDatabase::new().await;
    let database = db.database();
    let orgs = [funded(&db, 1000).await, funded(&db, 1000).await, funded(&db, 1000).await];
    let moves = (0..60).map(|n| database.transfer(orgs[n % 3], orgs[(n + 1) % 3], credits(10), WHY, None));
    futures_util::future::try_join_all(moves).await.unwrap();
    for org in orgs {
        assert_eq!(money(database, org).await, [1000, 0, 0]);
    }
}

#[tokio::test]
async fn bad_words_and_amounts_move_nothing() {
    let db = TestDatabase::new().await;
    let (org, other) = (funded(&db, 100).await, funded(&db, 100).await);
    let database = db.database();
    let long = "x".repeat(501);
    for reason in ["", "  ", "nul\0", &long] {
        is_invalid(
            database.adjust(org, credits(1), Why { reason, external_ref: None }, None).await,
            "reason",
        );
    }
    for reference in ["", "nul\0", &long[..201]] {
        let why = Why { reason: "r", external_ref: Some(reference) };
        is_invalid(database.adjust(org, credits(1), why, None).await, "external_ref");
    }
    is_invalid(database.grant(org, Credits::ZERO, None, WHY, None).await, "at least one");
    is_invalid(database.grant(org, credits(-1), None, WHY, None).await, "at least one");
    is_invalid(database.adjust(org, Credits::ZERO, WHY, None).await, "must not be zero");
    is_invalid(database.transfer(org, other, Credits::ZERO, WHY, None).await, "at least one");
    is_invalid(database.transfer(org, other, credits(-1), WHY, None).await, "at least one");
    is_invalid(database.transfer(org, other, credits(i64::MIN), WHY, None).await, "at least one");
    is_invalid(database.transfer(org, org, credits(1), WHY, None).await, "another organisation");
    is_invalid(database.grant(org, credits(1), Some(Clock.wall()), WHY, None).await, "passed");
    sqlx::raw_sql("update org set deleted_at = now(); update org_balance set deleted = true")
        .execute(db.pool())
        .await
        .unwrap();
    is_conflict(database.grant(org, credits(1), None, WHY, None).await, "deleted");
    assert_eq!(money(database, org).await, [100, 0, 0]);
}

#[tokio::test]
async fn a_summary_tells_what_is_low_how_long_it_lasts_and_what_will_run_out() {
    let db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 1000).await);
    let database = db.database();
    let summary = database.credit_summary(org, Credits::ZERO).await.unwrap();
    assert_eq!((summary.low, summary.low_threshold, summary.version), (false, None, 0));
    assert_eq!(
        (summary.runway.per_day, summary.runway.days, summary.runway.until),
        (Credits::ZERO, None, None)
    );

    let mut guard = grant(&ledger, new_hold(org, 300)).await;
    guard.step(run(guard.id())).await.unwrap();
    guard.step(settle(300)).await.unwrap();
    // A week ago, it began; what was spent before is not looked at.
    sqlx::raw_sql("update org set created_at = now() - interval '30 days'").execute(db.pool()).await.unwrap();
    sqlx::raw_sql(
        "begin; set local session_replication_role = replica; \
         insert into usage_day select org_id, day - 7, user_id, team_id, key_id, task_type, 1, 9000, 0 from usage_day; commit",
    )
    .execute(db.pool())
    .await
    .unwrap();
    let runway = database.credit_summary(org, Credits::ZERO).await.unwrap().runway;
    // 300 in six days and the part of today that has passed.
    let hour = Clock.wall().hour();
    assert!((43..=50).contains(&runway.per_day.get()), "{runway:?} at {hour}");
    let days = runway.days.unwrap();
    assert!((14..=16).contains(&days), "{runway:?}");
    let until = runway.until.unwrap() - Clock.wall();
    assert!((until.whole_days() - i64::from(days)).abs() <= 1, "{runway:?}");
    sqlx::raw_sql("delete from usage_day where charged = 9000").execute(db.pool()).await.unwrap();

    database.set_low_threshold(org, Some(credits(701)), Some(0)).await.unwrap();
    let summary = database.credit_summary(org, Credits::ZERO).await.unwrap();
    assert_eq!((summary.low, summary.low_threshold, summary.version), (true, Some(credits(701)), 1));
    let stale = database.set_low_threshold(org, None, Some(0)).await;
    assert!(matches!(stale, Err(StoreError::Stale { current: 1 })), "{stale:?}");
    database.set_low_threshold(org, Some(credits(700)), Some(1)).await.unwrap();
    assert!(!database.credit_summary(org, Credits::ZERO).await.unwrap().low);
    is_invalid(database.set_low_threshold(org, Some(credits(-1)), None).await, "negative");
    let unknown = database.set_low_threshold(OrgId::generate(), None, None).await;
    assert!(matches!(unknown, Err(StoreError::NotFound(_))));

    let end = Clock.wall() + Duration::from_secs(3600);
    let granted = database.grant(org, credits(80), Some(end), WHY, None).await.unwrap().answer;
    database.adjust(org, credits(-30), WHY, None).await.unwrap();
    database.expire_credits().await.unwrap();
    let [expiring] = database.credit_summary(org, Credits::ZERO).await.unwrap().expiring[..] else {
        panic!()
    };
    assert_eq!((expiring.entry_id, expiring.left), (granted.entry_id, credits(50)));
}
