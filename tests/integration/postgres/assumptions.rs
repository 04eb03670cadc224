//! A database that is not as assumed is refused, at `migrate` and at the start, before anything is done and in words that say
//! what to do.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tollgate::secret::Secret;
use tollgate::store::{Database, Purpose, Shortfall};
use url::Url;
use uuid::Uuid;

use crate::support::database::{PATIENCE, TestDatabase};
use crate::support::gateway::{TestGateway, closed_port};
use crate::support::process::{Process, Said, Scratch, run};

/// A database, and perhaps a role, on the server of a test's own.
struct Made {
    server: String,
    name: String,
    /// As the role that was made, or as the server's administrator.
    url: String,
    role: Option<String>,
}

impl Made {
    /// An empty database with these options.
    async fn with(beside: &TestDatabase, options: &str) -> Self {
        let name = format!("tollgate_made_{}", Uuid::now_v7().simple());
        let mut url = Url::parse(beside.url()).unwrap();
        url.set_path(&name);
        let made = Self { server: beside.url().to_owned(), name, url: url.into(), role: None };
        made.as_administrator(&format!("create database {} {options}", made.name)).await;
        made
    }

    /// An empty database of a role of its own, which is no administrator.
    async fn owned(beside: &TestDatabase) -> Self {
        let mut made = Self::with(beside, "").await;
        made.become_role().await;
        let role = made.role();
        made.as_administrator(&format!("alter database {} owner to {role}", made.name)).await;
        made
    }

    /// Makes a role, and connects as it from now on.
    async fn become_role(&mut self) {
        let role = format!("role_{}", Uuid::now_v7().simple());
        self.as_administrator(&format!("create role {role} login password '{role}'")).await;
        let mut url = Url::parse(&self.url).unwrap();
        url.set_username(&role).unwrap();
        url.set_password(Some(&role)).unwrap();
        self.url = url.into();
        self.role = Some(role);
    }

    fn role(&self) -> String {
        self.role.clone().unwrap()
    }

    async fn as_administrator(&self, statement: &str) {
        let mut server = PgConnection::connect(&self.server).await.unwrap();
        server.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
        server.close().await.unwrap();
    }

    /// The URL of this database for the server's administrator.
    fn administrators_url(&self) -> String {
        let mut url = Url::parse(&self.server).unwrap();
        url.set_path(&self.name);
        url.into()
    }

    async fn run_as_administrator(&self, statement: &str) {
        let mut here = PgConnection::connect(&self.administrators_url()).await.unwrap();
        here.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
        here.close().await.unwrap();
    }

    /// What is in it, of tables and schemas.
    async fn contents(&self) -> Vec<String> {
        let mut here = PgConnection::connect(&self.administrators_url()).await.unwrap();
        let found = sqlx::query_scalar(
            "select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace \
             where n.nspname !~ '^pg_' and n.nspname <> 'information_schema' \
             union select nspname::text from pg_namespace where nspname = 'reporting' order by 1",
        )
        .fetch_all(&mut here)
        .await
        .unwrap();
        here.close().await.unwrap();
        found
    }

    async fn migrate(&self) -> Said {
        run(&["migrate", "--database-url", &self.url]).await
    }

    async fn serve(&self) -> Said {
        let scratch = Scratch::new();
        run(&["serve", "--config", &scratch.file("gateway.toml", &self.config().await)]).await
    }

    async fn config(&self) -> String {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
             [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"k\"\n",
            self.url,
            closed_port().await
        )
    }

    /// It is refused by `migrate` with all of these words, and left as it was.
    async fn is_refused(&self, words: &[&str]) {
        let before = self.contents().await;
        let said = self.migrate().await;
        assert_eq!((said.code, said.out.as_str()), (3, ""), "{said:?}");
        for word in [words, &["nothing in it was changed"]].concat() {
            assert!(said.err.contains(word), "{word}: {said:?}");
        }
        assert!(
            !said.err.contains("panicked") && !said.err.contains("error returned from database"),
            "{said:?}"
        );
        assert_eq!(self.contents().await, before, "nothing is half done");
    }

    async fn shortfalls(&self, purpose: Purpose) -> Vec<Shortfall> {
        Database::connect(&Secret::new(&self.url), 1, PATIENCE).unwrap().shortfalls(purpose).await.unwrap()
    }

    async fn remove(self) {
        self.as_administrator(&format!("drop database {} with (force)", self.name)).await;
        if let Some(role) = &self.role {
            self.as_administrator(&format!("drop role {role}")).await;
        }
    }
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_refused() {
    let db = TestDatabase::new().await;
    for encoding in ["WIN1254", "SQL_ASCII"] {
        let options = format!("encoding '{encoding}' template template0 lc_collate 'C' lc_ctype 'C'");
        let made = Made::with(&db, &options).await;
        made.is_refused(&[encoding, "must be UTF8", "createdb -E UTF8 -T template0"]).await;
        let said = made.serve().await;
        assert!(said.code == 3 && said.err.contains("must be UTF8"), "{said:?}");
        let scratch = Scratch::new();
        let (directory, url) = (scratch.0.to_str().unwrap(), made.url.as_str());
        let demo = ["demo", "--listen", "127.0.0.1:0", "--data-dir", directory, "--database-url", url];
        let said = run(&demo).await;
        assert!(said.code == 3 && said.err.contains("must be UTF8"), "{said:?}");
        assert_eq!(made.contents().await, [""; 0], "not even a demo's mark");
        made.remove().await;
    }
}

#[tokio::test]
async fn a_database_that_does_not_wait_for_the_disk_is_refused() {
    let db = TestDatabase::new().await;
    let mut made = Made::with(&db, "").await;
    // The server of the tests says that its data may be lost.
    made.as_administrator(&format!("alter database {} set tollgate.data_may_be_lost = off", made.name)).await;
    made.is_refused(&["synchronous_commit is off", "command line"]).await;
    let advised = made.shortfalls(Purpose::Migrate).await;
    for setting in ["fsync is off", "full_page_writes is off"] {
        assert!(advised.iter().any(|found| found.what.contains(setting)), "{advised:?}");
    }
    let name = made.name.clone();
    for (setting, remedy) in [
        (format!("alter database {name} set synchronous_commit = off"), "alter database"),
        (format!("alter role current_user in database {name} set synchronous_commit = off"), "in database"),
    ] {
        made.run_as_administrator(&setting).await;
        made.is_refused(&["synchronous_commit is off", remedy]).await;
    }
    made.url = format!(
        "{}{}options=-c%20synchronous_commit%3Doff",
        made.url,
        if made.url.contains('?') { "&" } else { "?" }
    );
    made.is_refused(&["options in the database URL"]).await;
    made.remove().await;
}

/// The guards of the books, revocations and the audit log are triggers.
#[tokio::test]
async fn a_database_in_which_no_trigger_fires_is_refused() {
    let db = TestDatabase::new().await;
    let made = Made::with(&db, "").await;
    made.run_as_administrator(&format!(
        "alter database {} set session_replication_role = replica",
        made.name
    ))
    .await;
    let words = [
        "session_replication_role is replica: no trigger fires",
        "alter database",
        "reset session_replication_role",
    ];
    made.is_refused(&words).await;
    let reset = format!("alter database {} reset session_replication_role", made.name);
    made.run_as_administrator(&reset).await;
    assert_eq!(made.migrate().await.code, 0);
    // It is looked at on each start, too.
    made.run_as_administrator(&format!(
        "alter database {} set session_replication_role = replica",
        made.name
    ))
    .await;
    let said = made.serve().await;
    assert!(said.code == 3 && said.err.contains(words[0]) && said.err.contains(words[2]), "{said:?}");
    made.run_as_administrator(&format!(
        "alter role current_user in database {} set session_replication_role = replica",
        made.name
    ))
    .await;
    let told = made.shortfalls(Purpose::Serve).await;
    assert!(told.iter().any(|told| told.blocking && told.remedy.contains("in database")), "{told:?}");
    made.remove().await;
}

#[tokio::test]
async fn a_role_that_lacks_rights_is_told_each_grant_before_the_first_migration() {
    let db = TestDatabase::new().await;
    let mut made = Made::with(&db, "").await;
    made.become_role().await;
    let (role, name) = (made.role(), made.name.clone());
    let tables = format!("grant usage, create on schema \"public\" to \"{role}\"");
    let schemas = format!("grant create on database \"{name}\" to \"{role}\"");
    made.is_refused(&[&tables, &schemas]).await;
    made.run_as_administrator(&tables).await;
    made.is_refused(&[&schemas]).await;
    made.run_as_administrator(&schemas).await;
    let said = made.migrate().await;
    assert_eq!(said.code, 0, "{said:?}");

    // Another role, which owns nothing.
    let owner = role;
    let owners = made.url.clone();
    made.become_role().await;
    let role = made.role();
    made.is_refused(&["does not own", &owner, "may not make views in the schema reporting"]).await;
    let said = made.serve().await;
    assert!(said.code == 3 && said.err.contains("may not read"), "{said:?}");
    let grant = format!("grant select on all tables in schema \"public\" to \"{role}\"");
    assert!(said.err.contains(&grant), "{said:?}");
    made.run_as_administrator(&grant).await;
    let told: Vec<Shortfall> =
        made.shortfalls(Purpose::Serve).await.into_iter().filter(|one| one.blocking).collect();
    // Not everybody may call what runs with the rights of the owner.
    let remedies = ["grant insert, update, delete", "grant execute on all routines"];
    assert!(
        told.len() == 2 && told.iter().zip(remedies).all(|(told, remedy)| told.remedy.contains(remedy)),
        "{told:?}"
    );
    made.run_as_administrator("revoke usage on schema public from public").await;
    made.run_as_administrator(&format!("grant usage on schema public to {owner}")).await;
    made.is_refused(&["may use none of the schemas"]).await;
    made.url = owners;
    made.remove_with(&owner).await;
}

impl Made {
    /// Removes it with one more role.
    async fn remove_with(self, role: &str) {
        self.as_administrator(&format!("drop database {} with (force)", self.name)).await;
        for role in [role, &self.role()] {
            self.as_administrator(&format!("drop role {role}")).await;
        }
    }
}

/// The steps of the documents make a role that may do everything but see replication; where something is missing, it is told.
#[tokio::test]
async fn what_dashboards_lack_is_told_and_refuses_nothing() {
    let db = TestDatabase::new().await;
    let made = Made::owned(&db).await;
    let said = made.migrate().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains(&format!("grant pg_monitor to \"{}\"", made.role())), "{said:?}");
    made.as_administrator(&format!("grant pg_monitor, tollgate_app to {}", made.role())).await;
    assert_eq!(made.shortfalls(Purpose::Serve).await, []);
    made.run_as_administrator("revoke select on reporting.gateways from tollgate_reader").await;
    let told = made.shortfalls(Purpose::Serve).await;
    assert!(told.len() == 1 && !told[0].blocking, "{told:?}");
    // The remedy is what it says.
    let grants = told[0].remedy.split_once(": ").unwrap().1.to_owned();
    let mut owner = PgConnection::connect(&made.url).await.unwrap();
    owner.execute(sqlx::raw_sql(AssertSqlSafe(grants))).await.unwrap();
    owner.close().await.unwrap();
    assert_eq!(made.shortfalls(Purpose::Serve).await, []);
    made.remove().await;
}

/// Who may not act as the role of gateways serves as before, and is told what to do.
#[tokio::test]
async fn a_gateway_runs_as_the_role_that_migrate_makes_where_its_user_may() {
    let db = TestDatabase::new().await;
    assert_eq!(db.database().role().await.unwrap(), "tollgate_app");
    let made = Made::owned(&db).await;
    let said = made.migrate().await;
    assert_eq!(said.code, 0, "{said:?}");
    let remedy = format!("grant tollgate_app to \"{}\"", made.role());
    assert!(said.err.contains(&remedy), "{said:?}");
    let role =
        async || Database::connect(&Secret::new(&made.url), 1, PATIENCE).unwrap().role().await.unwrap();
    assert_eq!(role().await, made.role());

    made.as_administrator(&remedy).await;
    assert_eq!(role().await, "tollgate_app");
    let told = made.shortfalls(Purpose::Serve).await;
    assert!(told.iter().all(|told| !told.remedy.contains("tollgate_app")), "{told:?}");
    // Migrating is the owner's.
    made.run_as_administrator(
        "drop function saturated cascade; delete from schema_definition where name like '%saturated'",
    )
    .await;
    assert_eq!(made.migrate().await.code, 0);
    // What it lacks is told, as of any role.
    made.run_as_administrator("revoke insert on hold from tollgate_app").await;
    let told = made.shortfalls(Purpose::Serve).await;
    assert!(
        told.iter().any(|told| told.blocking && told.what.contains("\"tollgate_app\" may not write to hold")),
        "{told:?}"
    );
    assert_eq!(made.migrate().await.code, 0);
    assert!(made.shortfalls(Purpose::Serve).await.iter().all(|told| !told.blocking));
    made.remove().await;
}

#[tokio::test]
async fn the_role_of_gateways_can_change_no_rule_and_nothing_that_is_only_added() {
    let db = TestDatabase::new().await;
    let mut gateway = PgConnection::connect(db.url()).await.unwrap();
    gateway.execute("set role tollgate_app").await.unwrap();
    for refused in [
        "alter table entry disable trigger entry_append_only",
        "alter table entry add column more text",
        "drop trigger entry_audit on entry",
        "truncate entry",
        "truncate org_balance",
        "delete from entry",
        "update entry set amount = 1",
        "delete from hold",
        "delete from entry_other",
        "insert into hold_other select from hold",
        "alter table hold detach partition hold_other",
        "delete from correction",
        "delete from platform_loss",
        "update platform_loss set amount = 1",
        "update credit_lot_event set burned = 1",
        "delete from audit_log",
        "update audit_log set actor = 'somebody'",
        "delete from price_activation",
        "insert into transition (kind, from_state, to_state) values ('settle', 'HELD', 'SETTLED')",
        "update transition set to_state = 'RELEASED'",
        "insert into history_seal values (gen_random_uuid(), 1, 1, 1, 1)",
        "update schema_definition set revision = 1",
        "create function refuse_nothing() returns trigger language plpgsql as 'begin return new; end'",
        "create or replace function refuse_change() returns trigger language plpgsql as 'begin return new; end'",
        "create table another (id integer)",
        "drop table entry",
        "set session_replication_role = replica",
    ] {
        let error = gateway.execute(refused).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{refused}: {error}");
    }
}

/// Every connection of a gateway: those of its pools, its lanes and its jobs.
#[tokio::test]
async fn all_that_a_gateway_writes_is_written_as_that_role() {
    let mut gateway = TestGateway::start().await;
    // The trigger is nobody's but this test's.
    gateway.db.expect_broken();
    let watch = |table: &str| {
        format!(
            "create trigger seen_{table} after insert or update on {table} for each statement execute function note_role();"
        )
    };
    let tables = [
        "hold",
        "open_task",
        "entry",
        "org_balance",
        "idempotency",
        "gateway",
        "content",
        "epoch",
        "audit_log",
    ];
    sqlx::raw_sql(AssertSqlSafe(format!(
        "create table seen (role text, relation text, primary key (role, relation)); grant insert, select on seen to public; \
         create function note_role() returns trigger language plpgsql as $$ begin insert into seen values (current_user, \
         tg_table_name) on conflict do nothing; return null; end $$; {}",
        tables.map(watch).concat()
    )))
    .execute(gateway.db.pool())
    .await
    .unwrap();
    let made = gateway.admin_says(&["org", "create", "another"]).await;
    assert_eq!(made.code, 0, "{made:?}");
    let task = gateway.task("a task").await;
    gateway.finished(&task).await;
    let seen: Vec<(String, String)> = sqlx::query_as("select role, relation from seen order by 1, 2")
        .fetch_all(gateway.db.pool())
        .await
        .unwrap();
    assert!(seen.iter().all(|(role, _)| role == "tollgate_app"), "{seen:?}");
    for written in ["hold", "open_task", "entry", "org_balance", "audit_log"] {
        assert!(seen.iter().any(|(_, relation)| relation == written), "{written}: {seen:?}");
    }
}

#[tokio::test]
async fn the_database_of_another_application_is_refused() {
    let db = TestDatabase::new().await;
    for (statements, words) in [
        ("create table invoice (id int)", &["not Tollgate's", "invoice", "a database of its own"][..]),
        ("create function public.cap_of(x int) returns int language sql as 'select 1'", &["cap_of()"]),
        ("create schema reporting; create view reporting.usage as select 1 as x", &["usage"]),
        (
            "create table _sqlx_migrations (version bigint primary key, description text not null, installed_on \
             timestamptz not null default now(), success boolean not null, checksum bytea not null, execution_time \
             bigint not null); insert into _sqlx_migrations values (1, 'invoices', now(), true, '\\x00', 1)",
            &["history of another application"],
        ),
        (
            "create table _sqlx_migrations (id int); insert into _sqlx_migrations values (1)",
            &["history of another"],
        ),
    ] {
        let made = Made::with(&db, "").await;
        let mut here = PgConnection::connect(&made.url).await.unwrap();
        here.execute(sqlx::raw_sql(statements)).await.unwrap();
        here.close().await.unwrap();
        made.is_refused(words).await;
        let said = made.serve().await;
        assert!(said.code == 3 && said.err.contains(words[0]), "{said:?}");
        made.remove().await;
    }
    // What a cloud keeps elsewhere disturbs nobody.
    let made = Made::with(&db, "").await;
    made.run_as_administrator("create schema cron; create table cron.job (id int)").await;
    let said = made.migrate().await;
    assert_eq!(said.code, 0, "{said:?}");
    // Tables that come later are the operator's.
    made.run_as_administrator("create table hold_copy as select hold_id from hold").await;
    assert_eq!(made.migrate().await.code, 0);
    made.remove().await;
}

#[tokio::test]
async fn a_database_url_that_is_none_is_told_in_words() {
    for (url, words) in [
        ("mysql://u:hunter2@h/x", "begins with mysql://, but the ledger needs PostgreSQL"),
        ("host=h password=hunter2", "list of settings"),
        ("postgres://u:hunter2@h:x/y", "its port is not a number"),
        ("postgres://u:hunter2@h/x?sslmod=require", "sslmod"),
    ] {
        let said = run(&["migrate", "--database-url", url]).await;
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{said:?}");
        assert!(said.err.contains(words) && !said.err.contains("hunter2"), "{said:?}");
    }
}

#[tokio::test]
async fn an_ipv6_literal_is_an_address() {
    let said = run(&["migrate", "--database-url", "postgres://x@[::1]:1/x"]).await;
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("database x at [::1]:1"), "{said:?}");
    assert!(!said.err.contains("lookup"), "{said:?}");
}

/// A gateway tells what is wrong with its dashboards in its log, and serves.
#[tokio::test]
async fn a_gateway_starts_on_what_migrate_has_made() {
    let db = TestDatabase::new().await;
    let made = Made::owned(&db).await;
    assert_eq!(made.migrate().await.code, 0);
    let scratch = Scratch::new();
    let mut process =
        Process::start(&["serve", "--config", &scratch.file("gateway.toml", &made.config().await)]);
    let told = process
        .next_event_of(|event| event["remedy"].as_str().is_some_and(|remedy| remedy.contains("pg_monitor")))
        .await;
    assert_eq!(told["level"], "WARN");
    process.next_event("serving").await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
    made.remove().await;
}
