//! What dashboards may see: the views of the schema `reporting`, through a role that can read nothing else.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use tollgate::credits::Credits;
use tollgate::secret::Secret;
use tollgate::store::{
    Budget, BudgetFilter, BudgetLevel, Database, KeySpec, NewBudget, OrgChange, Period, Slice,
};
use url::Url;
use uuid::Uuid;

use crate::support::database::{PATIENCE, TestDatabase};
use crate::support::fixture::{
    HOUR, credits, doubt, fail, funded, grant, ledger, new_hold, run, settle, with_key,
};
use crate::support::seed::{TOP_UP, user_named};

/// Stands in whatever a reader must not see.
const HIDDEN: &str = "PROMPT_OF_SOMEBODY";

/// A connection that may do what the role may.
async fn reader(db: &TestDatabase) -> PgConnection {
    let mut reader = PgConnection::connect(db.url()).await.unwrap();
    reader.execute("set role tollgate_reader").await.unwrap();
    reader
}

async fn names(db: &TestDatabase, query: &'static str) -> Vec<String> {
    sqlx::query_scalar(query).fetch_all(db.pool()).await.unwrap()
}

async fn views(db: &TestDatabase) -> Vec<String> {
    names(
        db,
        "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where n.nspname = 'reporting' and c.relkind = 'v'",
    )
    .await
}

/// The first number that a query of one value answers.
async fn number(reader: &mut PgConnection, query: &'static str, org: Uuid) -> f64 {
    sqlx::query_scalar(query).bind(org).fetch_one(reader).await.unwrap()
}

fn is_denied<T>(done: Result<T, sqlx::Error>) -> bool {
    let Err(sqlx::Error::Database(error)) = done else { return false };
    error.code().as_deref() == Some("42501")
}

#[tokio::test]
async fn the_reader_reads_the_views_and_nothing_else() {
    let db = TestDatabase::new().await;
    let mut reader = reader(&db).await;
    let views = views(&db).await;
    assert!(views.len() > 15, "{views:?}");
    for view in views {
        reader.execute(AssertSqlSafe(format!("select * from {view}"))).await.unwrap();
        // A simple view could be written through.
        let delete = sqlx::raw_sql(AssertSqlSafe(format!("delete from {view}"))).execute(&mut reader).await;
        assert!(delete.is_err(), "{view}");
    }

    let tables = names(
        &db,
        "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace \
         where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') \
           and n.nspname not in ('reporting', 'pg_catalog', 'information_schema', 'pg_toast')",
    )
    .await;
    for secret in ["public.api_key", "public.audit_log", "public.hold", "public.signing_key"] {
        assert!(tables.iter().any(|table| table == secret), "{tables:?}");
    }
    for table in tables {
        let read = reader.execute(AssertSqlSafe(format!("select * from {table}"))).await;
        assert!(is_denied(read), "{table}");
    }

    // What runs with the rights of its owner is a door.
    let doors = names(
        &db,
        "select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace \
         where p.prosecdef and n.nspname not in ('pg_catalog', 'information_schema') order by 1",
    )
    .await;
    assert_eq!(
        doors,
        ["make_partitions()", "reporting.sessions_of_owner()", "reporting.standbys_of_owner()"]
    );
    for forbidden in [
        "create table public.mine ()",
        "create table reporting.mine ()",
        "create schema mine",
        "update public.org set status = 'active'",
        "select * from public.expire_credits(gen_random_uuid(), 1, '', now())",
        "select public.bump_epoch('auth')",
        "select public.make_partitions()",
        "alter role tollgate_reader login",
        "create role other",
    ] {
        assert!(is_denied(sqlx::raw_sql(forbidden).execute(&mut reader).await), "{forbidden}");
    }
}

#[tokio::test]
async fn no_view_shows_what_callers_sent_or_a_secret() {
    let mut db = TestDatabase::new().await;
    // with losses and drift that nothing has caused
    db.expect_broken();
    let (database, ledger) = (db.database(), ledger(&db).await);
    let org = funded(&db, 10_000).await;
    database.grant(org, credits(5), None, TOP_UP, None).await.unwrap();
    let user = database.add_user(org, &user_named("ada")).await.unwrap();
    let (_, secret) = database
        .create_key(org, user, &KeySpec { name: "batch".into(), env: "live".into(), ..KeySpec::default() })
        .await
        .unwrap();
    for (n, end) in [settle(900), fail(30), doubt()].into_iter().enumerate() {
        let mut guard = grant(&ledger, with_key(org, 100, &format!("{HIDDEN}{n}"))).await;
        guard.step(run(guard.id())).await.unwrap();
        guard.step(end).await.unwrap();
    }
    sqlx::raw_sql(AssertSqlSafe(format!(
        "insert into content (org_id, hold_id, first, last) select org_id, hold_id, '{HIDDEN}', '{HIDDEN}' from task; update hold set reason = '{HIDDEN}', drift = 7; update idempotency set answer = '{HIDDEN}'; \
         insert into platform_loss select org_id, hold_id, 9, 1, true, '{HIDDEN}', now() from task"
    )))
    .execute(db.pool())
    .await
    .unwrap();
    let public_id: String =
        sqlx::query_scalar("select public_id from api_key").fetch_one(db.pool()).await.unwrap();
    let digest: String = sqlx::query_scalar("select encode(secret_sha256, 'hex') from api_key")
        .fetch_one(db.pool())
        .await
        .unwrap();

    let mut reader = reader(&db).await;
    let mut filled = 0;
    for view in views(&db).await {
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!("select v::text from {view} v")))
            .fetch_all(&mut reader)
            .await
            .unwrap();
        filled += usize::from(!rows.is_empty());
        let text = rows.join("\n");
        for hidden in [HIDDEN, secret.expose(), &public_id, &digest] {
            assert!(!text.contains(hidden), "{view} shows {hidden}: {text}");
        }
    }
    assert!(filled >= 12, "only {filled} views had rows");
}

#[tokio::test]
async fn the_views_say_what_the_ledger_says() {
    let db = TestDatabase::new().await;
    let (database, ledger) = (db.database(), ledger(&db).await);
    let org = funded(&db, 10_000).await;
    // Its days and weeks begin at other instants than ours.
    let change = OrgChange { time_zone: Some("America/Sao_Paulo".into()), ..OrgChange::default() };
    database.update_org(org, change, None).await.unwrap();
    let user = database.add_user(org, &user_named("ada")).await.unwrap();
    for period in [Period::Daily, Period::Weekly, Period::Monthly, Period::Total] {
        for level in [BudgetLevel::Organisation, BudgetLevel::User] {
            let subject = (level == BudgetLevel::User).then(|| user.to_string());
            let new = NewBudget {
                org: Some(org),
                level,
                subject,
                period,
                credits: Some(credits(5_000)),
                thresholds: None,
            };
            database.make_budget(&new).await.unwrap();
        }
    }
    let mut settled = grant(&ledger, new_hold(org, 700)).await;
    settled.step(run(settled.id())).await.unwrap();
    settled.step(settle(800)).await.unwrap();
    let open = grant(&ledger, tollgate::store::NewHold { user, ..new_hold(org, 300) }).await;

    let mut reader = reader(&db).await;
    let id = org.as_uuid();
    let summary = database.credit_summary(org, Credits::ZERO).await.unwrap();
    let balance = sqlx::query("select available, held, consumed from reporting.balances where org_id = $1")
        .bind(id)
        .fetch_one(&mut reader)
        .await
        .unwrap();
    let balance = [0, 1, 2].map(|at| credits(balance.get(at)));
    assert_eq!(balance, [summary.balance.available, summary.balance.held, summary.balance.consumed]);
    let per_day = "select credits_per_day::float8 from reporting.runway where org_id = $1";
    assert_eq!(number(&mut reader, per_day, id).await, summary.runway.per_day.get() as f64);
    let days = "select floor(days_left)::float8 from reporting.runway where org_id = $1";
    assert_eq!(Some(number(&mut reader, days, id).await as i32), summary.runway.days);
    let spent = "select sum(credits)::float8 from reporting.spend where org_id = $1";
    assert_eq!(number(&mut reader, spent, id).await, 800.0);
    let held = "select sum(credits)::float8 from reporting.open_tasks where org_id = $1";
    assert_eq!(number(&mut reader, held, id).await, 300.0);
    let overrun = "select sum(overrun)::float8 from reporting.overruns where org_id = $1";
    assert_eq!(number(&mut reader, overrun, id).await, 100.0);

    let mut ours: Vec<(String, String, i64, i64, i64)> = sqlx::query_as(
        "select level, period, credits, used, held from reporting.budget_use where org_id = $1",
    )
    .bind(id)
    .fetch_all(&mut reader)
    .await
    .unwrap();
    let stored = |level: BudgetLevel| match level {
        BudgetLevel::Organisation => "org".to_owned(),
        other => other.as_str().to_owned(),
    };
    let known = |budget: &Budget| {
        let [limit, used, held] =
            [budget.limit, budget.used, budget.held].map(|credits| credits.unwrap_or_default().get());
        (stored(budget.level), budget.period.as_str().to_owned(), limit, used, held)
    };
    let all = Slice { after: None, limit: 100 };
    let mut theirs: Vec<_> = database
        .list_budgets(Some(org), BudgetFilter::default(), all)
        .await
        .unwrap()
        .iter()
        .map(known)
        .collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
    assert!(ours.contains(&("org".into(), "weekly".into(), 5_000, 800, 300)), "{ours:?}");
    drop(open);
}

/// Who may only read can keep nobody waiting: what is locked on purpose are rows and tables on which a reader has no right.
#[tokio::test]
async fn the_reader_can_lock_nothing_that_others_wait_for() {
    let db = TestDatabase::new().await;
    let mut reader = reader(&db).await;
    for lock in [
        "select from schema_definition for update",
        "select from org for update",
        "do $$ begin lock table _sqlx_migrations in share update exclusive mode; end $$",
    ] {
        assert!(is_denied(sqlx::raw_sql(lock).execute(&mut reader).await), "{lock}");
    }
    // Every advisory lock with a small number, and those that former versions took.
    let locks = "select pg_advisory_lock(n) from generate_series(7116000, 7116100) n";
    reader.execute(locks).await.unwrap();
    db.database().migrate().await.unwrap();
}

/// Who migrates need not be an administrator; then the views are there, and the grants if the role is.
#[tokio::test]
async fn who_may_not_make_roles_migrates_all_the_same() {
    let db = TestDatabase::new().await;
    let name = format!("plain_{}", Uuid::now_v7().simple());
    for statement in [
        format!("create role {name} login password '{name}'"),
        format!("create database {name} owner {name}"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
    }
    let mut url = Url::parse(db.url()).unwrap();
    url.set_path(&name);
    url.set_username(&name).unwrap();
    url.set_password(Some(&name)).unwrap();
    let plain = Database::connect(&Secret::new(url.as_str()), 1, PATIENCE).unwrap();
    plain.migrate().await.unwrap();
    plain.renew_lease(tollgate::ids::GatewayId::generate(), HOUR).await.unwrap();
    let mut owner = PgConnection::connect(url.as_str()).await.unwrap();
    let alive: i64 = sqlx::query_scalar("select count(*) from reporting.gateways where alive")
        .fetch_one(&mut owner)
        .await
        .unwrap();
    assert_eq!(alive, 1);
    let may = "select has_schema_privilege('tollgate_reader', 'reporting', 'usage') \
               and has_table_privilege('tollgate_reader', 'reporting.gateways', 'select')";
    assert!(sqlx::query_scalar::<_, bool>(may).fetch_one(&mut owner).await.unwrap());
    owner.close().await.unwrap();
    drop(plain);
    for statement in [format!("drop database {name} with (force)"), format!("drop role {name}")] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(db.pool()).await.unwrap();
    }
}
