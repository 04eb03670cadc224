//! Months that are closed are sealed once, and what was sealed can be proved, here and without this program.

use std::time::Duration;

use sha2::{Digest, Sha256};
use time::Date;
use tollgate::ids::{HoldId, OrgId};
use tollgate::store::Month;

use crate::support::aged::by_hand;
use crate::support::database::TestDatabase;
use crate::support::fixture::{
    doubt, fail, funded, grant, late_run, late_settle, ledger, new_hold, run, settle, write_off,
};
use crate::support::process::{Scratch, run as run_tollgate};

const LONG: Duration = Duration::from_secs(60);

/// Seals the next closed month of an organisation, so many days from now.
async fn seal(db: &TestDatabase, org: OrgId, days: i32) -> Option<Date> {
    sqlx::query_scalar("select seal_month($1, now() + $2 * interval '1 day')")
        .bind(org.as_uuid())
        .bind(days)
        .fetch_one(db.pool())
        .await
        .unwrap()
}

/// The recipe of the documents.
async fn chain(db: &TestDatabase, org: OrgId, month: Date) -> Vec<u8> {
    let lines: Vec<String> = sqlx::query_scalar("select line from month_lines($1, $2)")
        .bind(org.as_uuid())
        .bind(month)
        .fetch_all(db.pool())
        .await
        .unwrap();
    assert_eq!(lines.len(), 7, "{lines:?}");
    lines.iter().fold(vec![0; 32], |link, line| Sha256::digest([&link, line.as_bytes()].concat()).to_vec())
}

#[tokio::test]
async fn a_closed_month_is_sealed_once_and_proved_without_this_program() {
    let mut db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 10_000).await);
    for end in [settle(90), settle(80), fail(5)] {
        let mut guard = grant(&ledger, new_hold(org, 100)).await;
        guard.step(run(HoldId::generate())).await.unwrap();
        guard.step(end).await.unwrap();
    }
    let mut late = grant(&ledger, new_hold(org, 100)).await;
    assert_eq!(seal(&db, org, 60).await, None, "a task goes on");
    late.step(doubt()).await.unwrap();
    late.step(write_off(100)).await.unwrap();
    assert_eq!(db.database().seal_months(LONG).await.unwrap(), 0, "this month is not over");
    assert_eq!(seal(&db, org, 7).await, None, "or not for long enough");
    let month = seal(&db, org, 60).await.unwrap();
    assert_eq!(seal(&db, org, 60).await, None);
    assert_eq!(db.database().prove_months().await.unwrap(), (1, vec![]));

    let sealed: (i64, i64, i64, i64, i64, i64, i64, i64) = sqlx::query_as(
        "select holds, settled, released, written_off, charged, entries, consumed, granted from month_seal",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(sealed, (4, 2, 1, 1, 170, 3, -170, 10_000));
    let link: Vec<u8> =
        sqlx::query_scalar("select chain from month_seal").fetch_one(db.pool()).await.unwrap();
    assert_eq!(chain(&db, org, month).await, link);

    // Evidence after the end is booked with an entry of its own, and a month from now that is another month's.
    let step = ledger.step(org, late.id(), late_run()).await;
    step.unwrap();
    ledger.step(org, late.id(), late_settle(70)).await.unwrap();
    let moved = "update correction set entry_id = uuid_v7(now() + interval '40 days'); \
        update entry set entry_id = (select entry_id from correction) where kind = 'correct'; \
        update entry set seal = entry_seal(org_id, entry_id, kind, amount, hold_id, seq, overrun, user_id, key_id, team_id, \
          task_type, reason, external_ref, related_entry, actor, created_at, place, balance_after)";
    by_hand(&db, moved).await;
    assert_eq!(db.database().prove_months().await.unwrap(), (1, vec![]));
    let said = run_tollgate(&["audit", "--months", "--database-url", db.url()]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("1 sealed months") || said.err.contains("1 sealed months"), "{said:?}");
    assert!(sqlx::query("update month_seal set charged = 0").execute(db.pool()).await.is_err());

    db.expect_broken();
    for (broken, mended) in [
        (
            "update entry set user_id = org_id where kind = 'grant'",
            "update entry set user_id = null where kind = 'grant'",
        ),
        (
            "update hold set charged = charged + 1 where charged is not null",
            "update hold set charged = charged - 1 where charged is not null",
        ),
        ("update month_seal set charged = charged + 1", "update month_seal set charged = charged - 1"),
        ("update month_seal set chain_before = chain", "select"),
    ] {
        by_hand(&db, broken).await;
        let (_, wrong) = db.database().prove_months().await.unwrap();
        assert!(
            wrong.len() == 1 && wrong[0].detail.contains(&org.as_uuid().to_string()),
            "{broken}: {wrong:?}"
        );
        by_hand(&db, mended).await;
    }
}

/// Files that lost a row, got another byte or were made of other books are told from those that have what was sealed.
#[tokio::test]
async fn a_sealed_month_is_archived_and_its_files_are_proved() {
    let mut db = TestDatabase::new().await;
    let (ledger, org) = (ledger(&db).await, funded(&db, 10_000).await);
    let mut guard = grant(&ledger, new_hold(org, 100)).await;
    guard.step(run(HoldId::generate())).await.unwrap();
    guard.step(settle(90)).await.unwrap();
    let scratch = Scratch::new();
    let (first, second) = (scratch.0.join("first"), scratch.0.join("second"));
    let named: Month = sqlx::query_scalar::<_, String>("select to_char(now() at time zone 'UTC', 'YYYY-MM')")
        .fetch_one(db.pool())
        .await
        .unwrap()
        .parse()
        .unwrap();
    assert!(db.database().archive_month(named, &first).await.is_err(), "it is not sealed");
    seal(&db, org, 60).await.unwrap();
    let made = db.database().archive_month(named, &first).await.unwrap();
    assert_eq!(made.files.iter().map(|file| file.rows).collect::<Vec<_>>(), [1, 2, 0]);
    assert_eq!(db.database().verify_archive(&first).await.unwrap(), made);
    let said = run_tollgate(&[
        "archive",
        "month",
        &named.to_string(),
        "--to",
        second.to_str().unwrap(),
        "--database-url",
        db.url(),
    ])
    .await;
    assert_eq!(said.code, 0, "{said:?}");
    let said =
        run_tollgate(&["archive", "verify", second.to_str().unwrap(), "--database-url", db.url()]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = run_tollgate(&["archive", "list", "--database-url", db.url()]).await;
    assert!(said.out.contains(&format!("{named}: 1 organisations, 1 holds, 2 entries")), "{said:?}");

    let file = first.join("entry.copy");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, String::from_utf8(whole.clone()).unwrap().replace("-90", "-91")).unwrap();
    assert!(db.database().verify_archive(&first).await.unwrap_err().to_string().contains("is not the file"));
    std::fs::write(&file, whole).unwrap();
    db.database().verify_archive(&first).await.unwrap();
    db.expect_broken();
    by_hand(&db, "update month_seal set granted = granted + 1").await;
    assert!(db.database().verify_archive(&first).await.is_err());
}
