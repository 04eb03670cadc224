//! The words of the database and those of the code are the same, and one that the code does not know is never taken for
//! another.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tollgate::ids::{BudgetId, BudgetRequestId, HoldId, OrgId, TeamId, UserId};
use tollgate::pricing::BookVersion;
use tollgate::store::{
    AuditFilter, BudgetLevel, EntryFilter, EntryKind, GivenRole, Late, OperatorRole, Period, PriceUnit,
    QuotaKind, RequestState, Role, Serves, SessionKind, SigningAlgorithm, Slice, State, Status, StepKind,
    StoreError, TargetKind,
};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::schema::files;

/// Each enum of words, with the columns it names.
fn known() -> Vec<(&'static [&'static str], BTreeSet<String>)> {
    macro_rules! known {
        ($($word:ident),+) => {
            vec![$(($word::PLACES, $word::ALL.iter().map(|word| word.stored().to_owned()).collect())),+]
        };
    }
    known![
        State,
        Late,
        StepKind,
        EntryKind,
        Status,
        Role,
        OperatorRole,
        Serves,
        SigningAlgorithm,
        BudgetLevel,
        Period,
        PriceUnit,
        TargetKind,
        GivenRole,
        QuotaKind,
        RequestState,
        SessionKind
    ]
}

/// Columns without a constraint that could be compared, and why.
const UNCHECKED: &[&str] = &[
    // rows of this very table are compared
    "transition.kind",
    // the states that go on, in a constraint of several columns
    "open_task.state",
    // the values of a JSON object
    "identity_provider.role_map",
];

/// The texts in quotes.
fn quoted(sql: &str) -> BTreeSet<String> {
    sql.split('\'').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn the_words_of_the_code_are_those_that_the_constraints_allow() {
    let db = TestDatabase::new().await;
    let constraints: Vec<(String, String)> = sqlx::query_as(
        "select format('%s.%s', c.conrelid::regclass, a.attname), pg_get_constraintdef(c.oid) from pg_constraint c \
         join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1] \
         where c.connamespace = 'public'::regnamespace and c.contype = 'c' and cardinality(c.conkey) = 1 and c.conislocal",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    let allowed: BTreeMap<String, BTreeSet<String>> = constraints
        .into_iter()
        .filter_map(|(column, rule)| Some((column, quoted(rule.split_once("ARRAY[")?.1))))
        .filter(|(_, words)| !words.is_empty())
        .collect();
    let of_code: BTreeMap<String, BTreeSet<String>> = known()
        .into_iter()
        .flat_map(|(places, words)| places.iter().map(move |place| ((*place).to_owned(), words.clone())))
        .filter(|(place, _)| !UNCHECKED.contains(&place.as_str()))
        .collect();
    assert_eq!(of_code, allowed);
}

#[tokio::test]
async fn the_steps_of_the_code_are_those_of_the_table_of_transitions() {
    let db = TestDatabase::new().await;
    let words = async |sql| -> BTreeSet<String> {
        let found: Vec<String> = sqlx::query_scalar(sql).fetch_all(db.pool()).await.unwrap();
        found.into_iter().collect()
    };
    let of = |words: Vec<&str>| words.into_iter().map(ToOwned::to_owned).collect::<BTreeSet<String>>();
    let kinds = of(StepKind::ALL.map(StepKind::stored).to_vec());
    assert_eq!(words("select kind from transition").await, kinds);
    let states = of(State::ALL.map(State::stored).to_vec());
    assert_eq!(
        words("select from_state from transition union select to_state from transition").await,
        states
    );
    let late = of(Late::ALL.map(Late::stored).to_vec());
    let reached = words("select to_late from transition where to_late is not null").await;
    assert_eq!(reached, late);
}

#[tokio::test]
async fn the_targets_of_the_audit_log_are_those_that_its_triggers_name() {
    let db = TestDatabase::new().await;
    // The arguments of a trigger are texts with a zero byte after each.
    let named: Vec<String> = sqlx::query_scalar(
        "select distinct split_part(encode(t.tgargs, 'escape'), '\\000', 1) from pg_trigger t \
         join pg_proc p on p.oid = t.tgfoid where p.proname = 'audit_change' and not t.tgisinternal",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    let mut named: BTreeSet<String> = named.into_iter().collect();
    // Written by functions of their own.
    named.extend(["hold".to_owned(), "signing_key".to_owned()]);
    let known: BTreeSet<String> = TargetKind::ALL.map(|kind| kind.stored().to_owned()).into();
    assert_eq!(named, known);
}

/// An enum of words as the source declares it.
struct Declared {
    places: Vec<String>,
    words: BTreeSet<String>,
}

/// Every `words! { … }` below a token stream, but for those of tests.
fn declared(stream: TokenStream, found: &mut Vec<Declared>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    for (index, tree) in trees.iter().enumerate() {
        let TokenTree::Group(group) = tree else { continue };
        let is =
            |back: usize, text: &str| index.checked_sub(back).is_some_and(|at| trees[at].to_string() == text);
        if is(1, "!") && is(2, "words") {
            found.push(read(group.stream()));
        } else if !(is(1, "tests") && is(2, "mod")) {
            declared(group.stream(), found);
        }
    }
}

/// `enum Name in "place", … { Word = "word" [stored "word"], … }`
fn read(stream: TokenStream) -> Declared {
    let text = |tree: &TokenTree| match tree {
        TokenTree::Literal(literal) => {
            syn::parse_str::<syn::LitStr>(&literal.to_string()).ok().map(|text| text.value())
        }
        _ => None,
    };
    let mut declared = Declared { places: Vec::new(), words: BTreeSet::new() };
    for tree in stream {
        match &tree {
            TokenTree::Literal(_) => declared.places.extend(text(&tree)),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                // Of each word the last text is the one that is stored.
                let trees: Vec<TokenTree> = group.stream().into_iter().collect();
                let one = trees.split(|tree| tree.to_string() == ",");
                declared.words.extend(one.filter_map(|word| word.iter().rev().find_map(text)));
            }
            _ => {}
        }
    }
    declared
}

/// The words in single quotes: an apostrophe is none.
fn words_of(text: &str) -> BTreeSet<String> {
    let parts: Vec<&str> = text.split('\'').collect();
    let word =
        |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    // Neither the first nor the last part has a quotation mark on both of its sides.
    let inner = parts.get(1..parts.len() - 1).unwrap_or_default();
    inner.iter().filter(|part| word(part)).map(|part| (*part).to_owned()).collect()
}

#[test]
fn the_outcomes_of_the_code_are_those_that_each_function_says_it_has() {
    let files = files();
    let functions: BTreeMap<&str, (&str, &str)> = files
        .iter()
        .filter(|(path, _)| path.starts_with("functions/"))
        .map(|(path, text)| (path.rsplit('/').next().unwrap(), text.split_once("create or replace").unwrap()))
        .collect();
    // What a function says above its text; `of another` are that one's words as well.
    let said = |name: &str| {
        let head = functions[name].0;
        let others = functions.iter().filter(|(other, _)| head.contains(&format!(" of {other}")));
        others.fold(words_of(head), |all, (_, (head, _))| &all | &words_of(head))
    };
    // What it and those that it calls have in their texts.
    let written = |name: &str| {
        let body = functions[name].1;
        let called = functions.iter().filter(|(other, _)| body.contains(&format!("{other}(")));
        called.fold(words_of(body), |all, (_, (_, body))| &all | &words_of(body))
    };
    let mut enums = Vec::new();
    let mut code = String::new();
    for (_, source) in crate::house::statements::files("src/store", "rs") {
        declared(source.parse().unwrap(), &mut enums);
        code.push_str(&source);
    }
    let mut compared = BTreeSet::new();
    for one in &enums {
        for name in one.places.iter().filter_map(|place| place.strip_suffix("()")) {
            assert_eq!(one.words, said(name), "{name}()");
            let missing: Vec<_> = one.words.difference(&written(name)).cloned().collect();
            assert_eq!(missing, [""; 0], "{name}() never answers these");
            compared.insert(name.to_owned());
        }
    }
    for (name, (_, text)) in functions {
        let answers_words = ["out outcome text", "out state text", "out verdict text", "returns text"];
        let called = code.contains(&format!(" {name}("));
        if called && answers_words.iter().any(|words| text.contains(words)) && !name.ends_with("_two_commits")
        {
            assert!(compared.contains(name), "{name}() answers words that no enum has");
        }
    }
}

/// A database whose rules are off, with one row of everything that has a word.
struct Lawless {
    db: TestDatabase,
    connection: PgConnection,
    id: Uuid,
}

impl Lawless {
    async fn new() -> Self {
        let mut db = TestDatabase::new().await;
        db.expect_broken();
        let mut connection = PgConnection::connect(db.url()).await.unwrap();
        let rules: Vec<String> = sqlx::query_scalar(
            "select format('alter table %s drop constraint %I', c.conrelid::regclass, c.conname) from pg_constraint c \
             where c.connamespace = 'public'::regnamespace and c.contype = 'c' and c.conislocal",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        for rule in rules {
            connection.execute(AssertSqlSafe(rule)).await.unwrap();
        }
        // No triggers: nothing is audited, and what is append-only can be changed.
        connection.execute("set session_replication_role = replica").await.unwrap();
        let id = Uuid::now_v7();
        let rows = format!(
            "insert into org (org_id, name) values ('{id}', 'an organisation'); \
             insert into org_balance (org_id) values ('{id}'); \
             insert into team (team_id, org_id, name) values ('{id}', '{id}', 'a team'); \
             insert into app_user (user_id, org_id, team_id, name) values ('{id}', '{id}', '{id}', 'a user'); \
             insert into operator_token (token_id, public_id, name, role, secret_sha256) \
               values ('{id}', 'x', 'a token', 'operator', '\\x00'); \
             insert into identity_provider (provider_id, name, serves, org_id, issuer, audiences, jwks_url, algorithms, \
               role_claim, role_map) values ('{id}', 'a provider', 'organisations', '{id}', 'i', '{{a}}', \
               'https://i.example/', '{{RS256}}', 'groups', '{{\"x\": \"admin\"}}'); \
             insert into budget (budget_id, org_id, level, period, credits) values ('{id}', '{id}', 'org', 'total', 5); \
             insert into hold (org_id, hold_id, user_id, amount, list_price, factor_bp, price_book, balance_after, \
               overdraft, task_type, backend, account, owner, fingerprint, created_at, ended_at, state) values ('{id}', \
               '{id}', '{id}', 5, 5, 10000, 1, 0, 0, 't', 'b', 'a', '{id}', '\\x00', now(), now(), 'RELEASED'); \
             insert into open_task (org_id, hold_id, state, backend, account, owner, due_at) \
               values ('{id}', '{id}', 'HELD', 'b', 'a', '{id}', now()); \
             insert into entry (org_id, entry_id, kind, amount, created_at) values ('{id}', '{id}', 'grant', 5, now()); \
             insert into key_policy (org_id, budget_period, budget_credits) values ('{id}', 'daily', 5); \
             insert into budget_request (request_id, org_id, user_id, level, subject_id, period, credits, until, reason) \
               values ('{id}', '{id}', '{id}', 'user', '{id}', 'daily', 5, now(), 'r'); \
             insert into audit_log (actor, action, target_kind, target_id) values ('a', 'a', 'org', '{id}')"
        );
        connection.execute(AssertSqlSafe(rows)).await.unwrap();
        Self { db, connection, id }
    }

    /// Reads after the column got another value, then puts the former one back.
    async fn read_with<T>(
        &mut self,
        column: &str,
        value: &str,
        read: impl AsyncFn(&TestDatabase, Uuid) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (table, field) = column.split_once('.').unwrap();
        let former = format!("create temporary table former as select {field} as value from {table} limit 1");
        self.connection.execute(AssertSqlSafe(former)).await.unwrap();
        self.connection
            .execute(AssertSqlSafe(format!("update {table} set {field} = {value}")))
            .await
            .unwrap();
        let answer = read(&self.db, self.id).await;
        let back = format!("update {table} set {field} = (select value from former)");
        self.connection.execute(AssertSqlSafe(back)).await.unwrap();
        self.connection.execute("drop table former").await.unwrap();
        answer
    }

    /// Fails unless the word is refused, by its name and that of its column, and the row can be read without it.
    async fn refuses<T>(
        &mut self,
        column: &str,
        value: &str,
        read: impl AsyncFn(&TestDatabase, Uuid) -> Result<T, StoreError>,
    ) {
        let answer = self.read_with(column, value, &read).await.map(drop);
        let Err(StoreError::Corrupt(why)) = &answer else { panic!("{column} = {value}: {answer:?}") };
        let named = why.contains(column) && why.contains("retired");
        assert!(named || column == "identity_provider.role_map", "{column} = {value}: {why}");
        read(&self.db, self.id).await.map(drop).unwrap_or_else(|error| panic!("{column}: {error}"));
    }
}

#[tokio::test]
async fn an_unknown_word_is_corrupt_and_never_taken_for_another() {
    let mut lawless = Lawless::new().await;
    let word = "'retired'";
    let all = || Slice { after: None, limit: 10 };
    lawless.refuses("org.status", word, async |db, id| db.database().org(OrgId::from_uuid(id)).await).await;
    lawless
        .refuses("team.status", word, async |db, id| db.database().team(TeamId::from_uuid(id)).await)
        .await;
    for column in ["app_user.status", "app_user.role"] {
        lawless.refuses(column, word, async |db, id| db.database().user(UserId::from_uuid(id)).await).await;
    }
    let tokens = async |db: &TestDatabase, _| {
        db.database().list_operator_tokens(Slice { after: None, limit: 10 }).await
    };
    lawless.refuses("operator_token.role", word, tokens).await;
    let providers = async |db: &TestDatabase, _| db.database().providers().await;
    for column in ["identity_provider.serves", "identity_provider.status"] {
        lawless.refuses(column, word, providers).await;
    }
    lawless.refuses("identity_provider.algorithms", "'{RS256,retired}'", providers).await;
    lawless.refuses("identity_provider.role_map", r#"'{"x": "retired"}'"#, providers).await;
    // A role that it may not give is as bad as none.
    lawless.refuses("identity_provider.role_map", r#"'{"x": "operator"}'"#, providers).await;
    let budget = async |db: &TestDatabase, id| db.database().budget(BudgetId::from_uuid(id)).await;
    for column in ["budget.level", "budget.period"] {
        lawless.refuses(column, word, budget).await;
    }
    let policy = async |db: &TestDatabase, id| db.database().key_policy(OrgId::from_uuid(id)).await;
    lawless.refuses("key_policy.budget_period", word, policy).await;
    let request = async |db: &TestDatabase, id| {
        db.database().budget_request(OrgId::from_uuid(id), BudgetRequestId::from_uuid(id)).await
    };
    for column in ["budget_request.level", "budget_request.period", "budget_request.state"] {
        lawless.refuses(column, word, request).await;
    }
    let task = async |db: &TestDatabase, id| {
        db.database().task_by_hold(OrgId::from_uuid(id), HoldId::from_uuid(id)).await
    };
    for column in ["open_task.state", "hold.late"] {
        lawless.refuses(column, word, task).await;
    }
    let entries = async |db: &TestDatabase, id| {
        db.database().entries(OrgId::from_uuid(id), &EntryFilter::default(), 10).await
    };
    lawless.refuses("entry.kind", word, entries).await;
    let book = async |db: &TestDatabase, _| db.database().book(BookVersion::new(1)).await;
    lawless.refuses("price.unit", word, book).await;
    let log =
        async |db: &TestDatabase, _| db.database().audit_log(&AuditFilter::default(), all().after, 10).await;
    lawless.refuses("audit_log.target_kind", word, log).await;
}

#[tokio::test]
async fn a_figure_that_cannot_be_and_a_counter_that_is_gone_are_corrupt() {
    let mut lawless = Lawless::new().await;
    let corrupt = |answer: Result<(), StoreError>| {
        assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}");
    };
    let factor = "insert into price_factor (org_id, factor_id, factor_bp, valid_from, reason) \
                  select org_id, org_id, -1, now() - interval '1 hour', 'a test' from org";
    lawless.connection.execute(factor).await.unwrap();
    let org = OrgId::from_uuid(lawless.id);
    corrupt(lawless.db.database().price_factors_in_force(&[org]).await.map(drop));
    let task = async |db: &TestDatabase, id| {
        db.database().task_by_hold(OrgId::from_uuid(id), HoldId::from_uuid(id)).await
    };
    corrupt(lawless.read_with("open_task.polls", "-1", task).await.map(drop));
    lawless.db.database().epochs().await.unwrap();
    lawless.connection.execute("delete from epoch where name = 'auth'").await.unwrap();
    corrupt(lawless.db.database().epochs().await.map(drop));
}
