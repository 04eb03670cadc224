//! The charged tasks of a month leave the database for files and come back, and meanwhile nothing adds up to anything else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tollgate::ids::{HoldId, OrgId, UserId};
use tollgate::order::Labels;
use tollgate::store::{
    BudgetLevel, Month, NewBudget, NewHold, Period, Statement, Step, UsageBy, UsageFilter,
};

use crate::support::aged::{aged, by_hand};
use crate::support::database::TestDatabase;
use crate::support::fixture::{
    credits, doubt, fail, funded, grant, late_run, late_settle, ledger, money, new_hold, run, run_as, settle,
    write_off,
};
use crate::support::process::Scratch;

const LONG: Duration = Duration::from_secs(60);

const ENTRIES: &str = "granted and consumed = sums of entries";
const CHAIN: &str =
    "entries follow one another: each has the balance before it and its amount, and is as it was booked";
const HOLD: &str = "a hold is as it was made, in price, factor, account and windows";
const MONTHS: &str =
    "what is left of an archived month, and the sums of what is in the archive, are what was sealed";
const USAGE: &str = "usage by day = entries of tasks";
const MISSED: &str = "an open window of a budget in force misses no task";
const VENDOR: &str = "the vendor's id of a task is known once";
const WINDOW: &str = "a window of a budget counts the tasks that list it";
const LOGGED: &str = "what people and expiry booked is in the audit log, as it was booked";

/// Tasks of two organisations in three months: one that ended about three months ago, a later one, and this one.
pub struct History {
    pub db: TestDatabase,
    pub orgs: [OrgId; 2],
    pub scratch: Scratch,
    /// The oldest month.
    pub month: Month,
}

async fn one<T>(db: &TestDatabase, sql: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db.pool()).await.unwrap()
}

/// A budget of all that is ever spent.
async fn budget(db: &TestDatabase, org: OrgId, level: BudgetLevel) {
    let credits = Some(credits(1_000_000));
    let new =
        NewBudget { org: Some(org), level, subject: None, period: Period::Total, credits, thresholds: None };
    db.database().make_budget(&new).await.unwrap();
    db.database().count_budgets(LONG).await.unwrap();
}

impl History {
    pub async fn new() -> Self {
        let db = TestDatabase::new().await;
        let ledger = ledger(&db).await;
        let orgs = [funded(&db, 100_000).await, funded(&db, 50_000).await];
        sqlx::query("update org set time_zone = 'Asia/Kathmandu' where org_id = $1")
            .bind(orgs[1].as_uuid())
            .execute(db.pool())
            .await
            .unwrap();
        budget(&db, orgs[0], BudgetLevel::Organisation).await;
        for older in [60, 50, 0] {
            for org in orgs {
                let mut lives: Vec<Vec<Step>> =
                    (0..12).map(|n| vec![run(HoldId::generate()), settle(80 + n)]).collect();
                lives.extend([
                    vec![run(HoldId::generate()), settle(130)],
                    vec![run(HoldId::generate()), fail(5)],
                    vec![doubt(), write_off(100)],
                    vec![doubt(), write_off(100), late_run(), late_settle(70)],
                ]);
                for (n, steps) in lives.into_iter().enumerate() {
                    let labels = BTreeMap::from([("n".to_owned(), (n % 3).to_string())]);
                    let new = NewHold {
                        labels: if n.is_multiple_of(2) { Labels::of(labels) } else { Labels::default() },
                        user: UserId::from_uuid(if n < 4 { org.as_uuid() } else { orgs[0].as_uuid() }),
                        ..new_hold(org, 100)
                    };
                    let mut guard = grant(&ledger, new).await;
                    for step in steps {
                        guard.step(step).await.unwrap();
                    }
                    std::mem::forget(guard);
                }
                if older == 60 && org == orgs[1] {
                    // What is made from now on lists its window; the other organisation's tasks all do.
                    budget(&db, org, BudgetLevel::Organisation).await;
                }
                db.database().grant(org, credits(7), None, crate::support::seed::TOP_UP, None).await.unwrap();
            }
            if older > 0 {
                aged(&db, older).await;
            }
        }
        ledger.shut_down().await;
        assert_eq!(db.database().audit().await.unwrap().breaches, []);
        db.database().seal_months(LONG).await.unwrap();
        let month: String = one(&db, "select left(min(month)::text, 7) from month_seal").await;
        Self { db, orgs, scratch: Scratch::new(), month: month.parse().unwrap() }
    }

    pub async fn archived(&self) -> PathBuf {
        let directory = self.scratch.0.join("archive");
        self.db.database().archive_month(self.month, &directory).await.unwrap();
        directory
    }

    /// A digest of all rows that may leave.
    pub async fn rows(&self) -> Vec<String> {
        let mut digests = Vec::new();
        for table in ["hold", "entry", "label", "vendor_task", "usage_day", "month_seal", "archived_month"] {
            let sql = format!(
                "select md5(coalesce(string_agg(row::text, chr(10) order by row::text), '')) from {table} row"
            );
            digests.push(one(&self.db, &sql).await);
        }
        digests
    }

    async fn statements(&self) -> Vec<Statement> {
        let mut statements = Vec::new();
        for org in self.orgs {
            for ahead in 0..5 {
                let month: String = one(
                    &self.db,
                    &format!("select to_char(now() - interval '1 month' * {ahead}, 'YYYY-MM')"),
                )
                .await;
                statements.push(self.db.database().statement(org, month.parse().unwrap()).await.unwrap());
            }
        }
        statements
    }

    async fn usage(&self, by: &[UsageBy]) -> Vec<tollgate::store::Usage> {
        let filter = UsageFilter {
            org: None,
            from: time::macros::date!(2000 - 01 - 01),
            to: time::macros::date!(2100 - 01 - 01),
            team: None,
            user: None,
            key: None,
            task_type: None,
            label: None,
        };
        self.db.database().usage(&filter, by, 1000, 0).await.unwrap()
    }
}

/// Opening, closing, lines, and of each kind its lines and credits.
type Figures = (i64, i64, i64, Vec<(String, i64, i64)>);

/// What must not change when a month leaves.
fn figures(of: &[Statement]) -> Vec<Figures> {
    let totals = |statement: &Statement| {
        statement.totals.iter().map(|t| (t.kind.as_str().to_owned(), t.lines, t.credits.get())).collect()
    };
    of.iter().map(|s| (s.opening.get(), s.closing.get(), s.lines, totals(s))).collect()
}

async fn add_up(db: &TestDatabase, of: &Statement) {
    let (mut balance, mut seen) = (of.opening.get(), 0);
    let mut after = None;
    loop {
        let lines = db.database().statement_lines(of, after, None, 3).await.unwrap();
        let Some(last) = lines.last() else { break };
        after = Some(last.entry.place());
        for line in lines {
            balance += line.entry.credits.get();
            assert_eq!(line.balance.get(), balance, "{line:?}");
            seen += match line.entry.reason.as_deref().and_then(|reason| reason.split_once(" tasks of ")) {
                Some((tasks, _)) => tasks.parse::<i64>().unwrap(),
                None => 1,
            };
        }
    }
    assert_eq!((of.closing.get(), of.lines), (balance, seen));
}

#[tokio::test]
async fn a_month_leaves_and_comes_back_and_all_that_adds_up_goes_on() {
    let history = History::new().await;
    let (db, orgs, month) = (&history.db, history.orgs, history.month);
    // One of them has sums of its entries.
    sqlx::query("insert into total_place (org_id) values ($1)")
        .bind(orgs[1].as_uuid())
        .execute(db.pool())
        .await
        .unwrap();
    assert!(db.database().add_to_totals(orgs[1].as_uuid(), 10).await.unwrap() > Some(0));
    let (before, rows) = (figures(&history.statements().await), history.rows().await);
    let usage = history.usage(&[UsageBy::Org, UsageBy::Day, UsageBy::User]).await;
    let balances = [money(db.database(), orgs[0]).await, money(db.database(), orgs[1]).await];
    let archive = history.archived().await;
    let old: String = one(
        db,
        "select upstream_task from hold where state = 'SETTLED' and charged = 85 order by hold_id limit 1",
    )
    .await;

    let left = db.database().detach_month(month, &archive, 1).await.unwrap();
    assert_eq!(left.tasks, 24, "an overrun, and what nobody paid for, stays");
    assert_eq!(left.credits, 2 * (80..92).sum::<i64>());
    let here: i64 = one(db, "select count(*) from hold").await;
    assert_eq!(here, 2 * 3 * 16 - 24);
    for _ in 0..2 {
        let statements = history.statements().await;
        assert_eq!(figures(&statements), before);
        assert_eq!(statements.iter().map(|statement| statement.archived).sum::<i64>(), 24);
        for statement in &statements {
            add_up(db, statement).await;
        }
        assert_eq!(history.usage(&[UsageBy::Org, UsageBy::Day, UsageBy::User]).await, usage);
        let now = [money(db.database(), orgs[0]).await, money(db.database(), orgs[1]).await];
        assert_eq!(now, balances);
        let report = db.database().audit().await.unwrap();
        assert_eq!((report.breaches, report.archived), (vec![], 24));
        assert_eq!(db.database().prove_months().await.unwrap().1, []);
        // The files are proved as before, and what is here is not archived once more.
        db.database().verify_archive(&archive).await.unwrap();
        assert!(db.database().archive_month(month, &history.scratch.0.join("again")).await.is_err());
        assert!(db.database().detach_month(month, &archive, 1).await.is_err());
        assert!(db.database().compact_month(month).await.unwrap());
    }

    // Who asks for one of the tasks learns what is known of it.
    let task = db.database().task_by_upstream_id(orgs[0], &old).await.unwrap().unwrap();
    assert_eq!((task.state.as_str(), task.charged), ("SETTLED", Some(credits(85))));
    assert!(task.is_over() && task.data.is_none());
    assert!(db.database().task_by_upstream_id(orgs[1], &old).await.unwrap().is_none(), "it is another's");
    let filter = UsageFilter {
        org: Some(orgs[0]),
        from: month.first_day(),
        to: month.first_day() + time::Duration::days(40),
        team: None,
        user: None,
        key: None,
        task_type: None,
        label: Some("n".into()),
    };
    let refused = db.database().usage(&filter, &[UsageBy::Label], 10, 0).await.unwrap_err();
    assert!(refused.to_string().contains("is archived"), "{refused}");

    // The books go on: a budget of all that was ever spent counts what is archived, the id is still taken, grants follow.
    budget(db, orgs[0], BudgetLevel::User).await;
    let ledger = ledger(db).await;
    let mut guard = grant(&ledger, new_hold(orgs[0], 100)).await;
    assert!(
        guard.step(run_as(&old)).await.is_err() || db.database().audit().await.unwrap().breaches.is_empty()
    );
    std::mem::forget(guard);
    ledger.shut_down().await;
    db.database().grant(orgs[1], credits(5), None, crate::support::seed::TOP_UP, None).await.unwrap();
    assert_eq!(db.database().audit().await.unwrap().breaches, []);

    let (now, hold) = (history.rows().await, "hold");
    assert_ne!(now, rows, "{hold}");
    let back = db.database().restore_month(&archive).await.unwrap();
    assert_eq!(back, left);
    assert_eq!(db.database().prove_months().await.unwrap().1, []);
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
    assert_eq!(history.statements().await.iter().map(|statement| statement.archived).sum::<i64>(), 0);
    assert!(db.database().restore_month(&archive).await.is_err());
    // And it can leave again, with the same files.
    assert_eq!(db.database().detach_month(month, &archive, 1).await.unwrap(), left);
    assert_eq!(db.database().audit().await.unwrap().breaches, []);
}

/// Byte by byte.
#[tokio::test]
async fn the_very_same_rows_come_back() {
    let history = History::new().await;
    let rows = history.rows().await;
    let archive = history.archived().await;
    history.db.database().detach_month(history.month, &archive, 1).await.unwrap();
    assert_ne!(history.rows().await, rows);
    history.db.database().restore_month(&archive).await.unwrap();
    assert_eq!(history.rows().await, rows);
}

#[tokio::test]
async fn a_month_that_somebody_may_need_or_that_is_not_safe_in_files_stays() {
    let mut history = History::new().await;
    let month = history.month;
    let nowhere = history.scratch.0.join("nowhere");
    let refused = async |history: &History, from: &Path, keep: u32, why: &str| {
        let error = history.db.database().detach_month(month, from, keep).await.unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
        let archived: i64 = one(&history.db, "select count(*) from archived_month").await;
        assert_eq!(archived, 0);
    };
    refused(&history, &nowhere, 1, "cannot be read").await;
    let archive = history.archived().await;
    refused(&history, &archive, 12, "it ended less than 12 months ago").await;

    for (file, from, to) in [
        ("entry.copy", "-85", "-84"),
        ("label.copy", "\t2", "\t1"),
        ("manifest.json", "\"rows\": ", "\"rows\": 1"),
    ] {
        let path = archive.join(file);
        let whole = fs::read_to_string(&path).unwrap();
        assert!(whole.contains(from), "{file}");
        fs::write(&path, whole.replacen(from, to, 1)).unwrap();
        refused(&history, &archive, 1, "").await;
        fs::remove_file(&path).unwrap();
        refused(&history, &archive, 1, "cannot be read").await;
        fs::write(&path, whole).unwrap();
    }

    let settled = "(select org_id, hold_id from hold where state = 'SETTLED' and charged = 85 order by hold_id limit 1)";
    history.db.expect_broken();
    for (breaking, mending, why) in [
        (
            format!("insert into open_task (org_id, hold_id, state, reopened, backend, account, owner, upstream_task, due_at) \
                select org_id, hold_id, 'RUNNING', true, 'b', 'a', org_id, 'x', now() from {settled} t"),
            "delete from open_task where upstream_task = 'x'",
            "tasks of it go on",
        ),
        (
            format!("insert into idempotency (org_id, endpoint, key, fingerprint, hold_id, created_at) \
                select org_id, 'generate', 'k', '', hold_id, to_timestamp(0) from {settled} t"),
            "delete from idempotency where key = 'k'",
            "idempotency keys",
        ),
        (
            format!("insert into credit_event (org_id, entry_id) select org_id, hold_id from {settled} t"),
            "delete from credit_event",
            "not attributed",
        ),
        (
            "insert into budget_count (org_id, budget_id, level, period, coming) select org_id, org_id, 'org', 'total', true from org limit 1; \
             insert into budget_count_place select org_id, count_id, now(), now(), org_id from budget_count"
                .into(),
            "delete from budget_count; delete from budget_count_place",
            "a budget is counting",
        ),
        // a column that the chain does not have
        (
            format!("update hold h set reason = 'other' from {settled} t where h.hold_id = t.hold_id"),
            "update hold set reason = null where reason = 'other'",
            "archive the month anew",
        ),
        (
            format!("insert into label select org_id, hold_id, 'later', 'x' from {settled} t"),
            "delete from label where name = 'later'",
            "archive the month anew",
        ),
        ("update month_seal set granted = granted + 1".into(), "update month_seal set granted = granted - 1", "seals"),
    ] {
        by_hand(&history.db, &breaking).await;
        refused(&history, &archive, 1, why).await;
        by_hand(&history.db, mending).await;
    }
    let moved = history.db.database().detach_month(month, &archive, 1).await.unwrap();
    assert_eq!(moved.tasks, 24);
    // Other files of the same month are not those that it left for.
    let manifest = archive.join("manifest.json");
    let whole = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, format!("{whole}\n")).unwrap();
    let error = history.db.database().restore_month(&archive).await.unwrap_err().to_string();
    assert!(error.contains("not the files that it left for"), "{error}");
}

/// What was changed here after the month had left: in its rows that stay, in the sums, in the seals.
#[tokio::test]
async fn what_is_wrong_with_an_archived_month_is_found() {
    let mut history = History::new().await;
    let archive = history.archived().await;
    history.db.database().detach_month(history.month, &archive, 1).await.unwrap();
    history.db.expect_broken();
    let first =
        one::<String>(&history.db, "select org_id::text from archived_month order by org_id limit 1").await;
    let month = history.month.first_day();
    let of = format!("org_id = '{first}' and month = '{month}'");
    let end = format!("first_id(('{month}'::date + interval '1 month') at time zone 'UTC')");
    for (statement, expected) in [
        (format!("update month_seal set granted = granted + 1 where {of}"), &[MONTHS][..]),
        (format!("update month_seal set settled = settled - 1 where {of}"), &[MONTHS]),
        (format!("update month_seal set chain = sha256(chain) where {of}"), &[MONTHS]),
        (format!("delete from month_seal where {of}"), &[MONTHS]),
        (format!("update archived_month set chain = sha256(chain) where {of}"), &[MONTHS]),
        (format!("delete from archived_month where {of}"), &[VENDOR, MONTHS]),
        (
            format!(
                "update archived_charge set amount = amount - 1 where entry_id = (select min(entry_id::text)::uuid from archived_charge where {of})"
            ),
            &[ENTRIES, MISSED, USAGE, VENDOR, MONTHS],
        ),
        (
            format!("update archived_charge set created_at = created_at - interval '1 day' where {of}"),
            &[USAGE],
        ),
        (format!("update archived_place set last_place = last_place + 1 where {of}"), &[CHAIN, MONTHS]),
        (
            format!(
                "update archived_place set amount = amount - 1, balance_after = balance_after - 1 where {of}"
            ),
            &[CHAIN, MONTHS],
        ),
        (format!("delete from archived_window where {of}"), &[WINDOW, MISSED]),
        (
            format!(
                "update vendor_task set charged = charged + 1 where org_id = '{first}' and charged is not null"
            ),
            &[VENDOR],
        ),
        (format!("delete from vendor_task where org_id = '{first}' and charged is not null"), &[VENDOR]),
        (
            format!(
                "update hold set amount = amount + 0, reason = 'x', price_book = 2 where org_id = '{first}' and hold_id < {end} and state = 'SETTLED'"
            ),
            &[HOLD],
        ),
        (
            format!(
                "delete from entry where org_id = '{first}' and entry_id < {end} and kind = 'consume'; \
                     delete from vendor_task v using hold h where h.org_id = '{first}' and h.hold_id < {end} and h.state = 'SETTLED' and v.hold_id = h.hold_id; \
                     delete from hold where org_id = '{first}' and hold_id < {end} and state = 'SETTLED'"
            ),
            &[ENTRIES, WINDOW, USAGE, CHAIN, MONTHS],
        ),
        (
            format!(
                "update entry set amount = amount + 1 where org_id = '{first}' and entry_id < {end} and kind = 'grant' and amount = 7"
            ),
            &[ENTRIES, CHAIN, LOGGED, MONTHS],
        ),
    ] {
        let mut copy = history.db.copy().await;
        copy.expect_broken();
        by_hand(&copy, &statement).await;
        let breaches = copy.database().audit().await.unwrap().breaches;
        let mut found: Vec<&str> = breaches.iter().map(|breach| breach.check).collect();
        found.dedup();
        assert_eq!(found, expected, "{statement}");
    }
}
