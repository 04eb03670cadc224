//! What a page costs: so many statements and so many bytes, however many rows there are.

use tollgate::store::{BudgetLevel, KeySpec, NewUser, OperatorRole, Period, Role};

use crate::support::browser::Browser;
use crate::support::database::TestDatabase;
use crate::support::seed::{admin_named, org_named, user_named};
use crate::support::tenant::{Tenant, history, make};
use crate::support::watched::{Vendor, Watched};

/// The most statements of a page.
const MOST: f64 = 24.0;

/// What the gateway does beside a page that takes longer than its rounds.
const BESIDE: f64 = 3.0;

/// The largest page, in bytes.
const BYTES: usize = 60_000;

/// How often a page is asked for; what the gateway does beside it only adds to what is counted.
const TIMES: u32 = 12;

/// Pages of members and admins, and of operators.
const MEMBERS: &[&str] = &[
    "/console",
    "/console/playground",
    "/console/clips",
    "/console/clips?view=grid",
    "/console/clips?type=t&status=SUCCESS",
    "/console/keys",
    "/console/budgets",
    "/console/usage",
    "/console/usage?by=key",
    "/console/usage?by=user",
    "/console/usage?by=team",
    "/console/usage?by=task_type",
    "/console/usage?by=label&label=project",
    "/console/statement",
    "/console/people",
    "/console/sessions",
];
const OPERATORS: &[&str] = &[
    "/console",
    "/console?search=custo",
    "/console/tasks",
    "/console/running",
    "/console/doubts",
    "/console/losses?days=7",
    "/console/drift?days=7",
    "/console/prices",
    "/console/prices/1",
    "/console/prices/1/what-if?days=7",
    "/console/gateways",
    "/console/audit",
    "/console/operators",
    "/console/providers",
];

/// Pages are asked for more often than by people.
const UNLIMITED: &str = "[limits]\norg_status_per_minute = 0\norg_management_per_minute = 0\noperator_management_per_minute = 0\n";

async fn statements(gateway: &Watched) -> f64 {
    gateway.scrape().await.value("tollgate_database_query_seconds_count")
}

/// The fewest statements that were counted while the page was made, and its size.
async fn cost(gateway: &Watched, browser: &mut Browser, place: &str) -> (f64, usize) {
    let (mut fewest, mut bytes) = (f64::MAX, 0);
    for _ in 0..TIMES {
        let before = statements(gateway).await;
        bytes = browser.get(place).await.shown().text.len();
        fewest = fewest.min(statements(gateway).await - before);
    }
    (fewest, bytes)
}

#[tokio::test]
async fn a_page_makes_as_many_statements_for_many_rows_as_for_few() {
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let gateway = Watched::configured(&db, vendor.address, UNLIMITED).await;
    let tenant = Tenant::new(&db, 100_000).await;
    let admin = db.database().add_user(tenant.org, &admin_named("boss")).await.unwrap();
    let spec = KeySpec { name: "console".into(), env: "test".into(), ..KeySpec::default() };
    let (_, key) = db.database().create_key(tenant.org, admin, &spec).await.unwrap();
    let token = db.database().create_operator_token("a test", OperatorRole::Operator, None).await.unwrap().1;
    let mut members = Browser::at(gateway.data.clone()).signed_in(key.expose()).await;
    let mut operators = Browser::at(gateway.operations.clone()).signed_in(token.expose()).await;
    let of_org =
        ["", "/credits", "/people", "/limits"].map(|end| format!("/console/orgs/{}{end}", tenant.org));
    let of_operators: Vec<&str> =
        OPERATORS.iter().copied().chain(of_org.iter().map(String::as_str)).collect();

    history(&db, &tenant, 3).await;
    let mut before = Vec::new();
    for place in MEMBERS {
        before.push(cost(&gateway, &mut members, place).await.0);
    }
    for place in &of_operators {
        before.push(cost(&gateway, &mut operators, place).await.0);
    }
    many(&db, &tenant).await;
    let mut before = before.into_iter();
    let mut check = |place: &str, (after, bytes): (f64, usize)| {
        let before = before.next().unwrap();
        assert!(after <= before + BESIDE, "{place}: {after} statements, {before} when there was little");
        assert!((1.0..=MOST).contains(&after), "{place}: {after} statements");
        assert!(bytes < BYTES, "{place}: {bytes} bytes");
    };
    for place in MEMBERS {
        check(place, cost(&gateway, &mut members, place).await);
    }
    for place in &of_operators {
        check(place, cost(&gateway, &mut operators, place).await);
    }
    gateway.stop().await;
}

/// More of everything than a page shows.
async fn many(db: &TestDatabase, tenant: &Tenant) {
    history(db, tenant, 2_000).await;
    sqlx::query(
        "insert into label (org_id, hold_id, name, value) \
         select org_id, hold_id, 'project', 'p' || (row_number() over () % 300) from hold where org_id = $1",
    )
    .bind(tenant.org.as_uuid())
    .execute(db.pool())
    .await
    .unwrap();
    for number in 0..220 {
        let new = NewUser { name: format!("user {number}"), role: Role::Member, team: Some(tenant.team) };
        let user = db.database().add_user(tenant.org, &new).await.unwrap();
        let spec = KeySpec { name: format!("key {number}"), env: "test".into(), ..KeySpec::default() };
        db.database().create_key(tenant.org, user, &spec).await.unwrap();
        if number % 3 == 0 {
            let subject = Some(user.to_string());
            make(db, Some(tenant.org), BudgetLevel::User, subject, Period::Daily, Some(500)).await.unwrap();
            db.database().create_team(tenant.org, &format!("team {number}")).await.unwrap();
            let org = db.database().add_org(&org_named(&format!("customer {number}"))).await.unwrap();
            db.database().add_user(org, &user_named("somebody")).await.unwrap();
        }
    }
}
