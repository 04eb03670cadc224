//! The operators' console: who sees what, what the forms do, and that they do it once.

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::ids::HoldId;
use tollgate::store::{OperatorRole, OrgChange};

use super::pages::guarded;
use crate::support::admin_client::AdminClient;
use crate::support::browser::{Browser, Page};
use crate::support::database::until;
use crate::support::gateway::{Answer, ENDLESS, TestGateway, body};

/// The pages that have no parameters in their path.
const PAGES: &[&str] = &[
    "/console",
    "/console?search=custo&state=active",
    "/console?stopped=yes",
    "/console/tasks",
    "/console/running",
    "/console/doubts",
    "/console/losses?days=7",
    "/console/drift?days=30",
    "/console/prices",
    "/console/prices/1",
    "/console/prices/1/diff?against=1",
    "/console/prices/1/what-if?days=30",
    "/console/gateways",
    "/console/audit",
    "/console/operators",
    "/console/providers",
];

/// The pages of one organisation.
fn of_org(org: &str) -> Vec<String> {
    ["", "/credits", "/people", "/limits"].iter().map(|end| format!("/console/orgs/{org}{end}")).collect()
}

async fn operator(gateway: &TestGateway) -> Browser {
    Browser::of_operators(gateway).signed_in(&gateway.operator_token().await).await
}

async fn reader(gateway: &TestGateway) -> Browser {
    // Somebody who may change things has to be there first.
    gateway.operator_token().await;
    let database = gateway.db.database();
    let made = database.create_operator_token("a reader", OperatorRole::OperatorRead, None).await;
    Browser::of_operators(gateway).signed_in(made.unwrap().1.expose()).await
}

/// A create that the vendor takes and nobody hears of: its reference, and the vendor's id.
async fn doubt(gateway: &TestGateway, prompt: &str) -> (String, String) {
    gateway.fault_on_create(json!({"kind": "cut_after"})).await;
    let reference = gateway.create(&body(prompt)).await.reference();
    gateway.script(json!({})).await;
    until("its excerpt is stored", async || {
        let stored = "select exists (select from content where hold_id = $1 and digests is not null)";
        let hold = reference.parse::<HoldId>().unwrap().as_uuid();
        sqlx::query_scalar::<_, bool>(stored).bind(hold).fetch_one(gateway.db.pool()).await.unwrap()
    })
    .await;
    let books = gateway.books().await;
    let id = books["tasks"].as_array().unwrap().last().unwrap()["task_id"].as_str().unwrap().to_owned();
    (reference, id)
}

/// The forms of a page that change something, but those of the frame.
fn forms(page: &Page) -> usize {
    let frame = ["/console/sign-out", "/console/theme"];
    let posts = page.text.match_indices("<form method=\"post\" action=\"").map(|(at, begin)| {
        let rest = &page.text[at + begin.len()..];
        rest.split('"').next().unwrap().to_owned()
    });
    posts.filter(|action| !frame.contains(&action.as_str())).count()
}

#[tokio::test]
async fn every_page_is_shown_to_operators_and_to_nobody_else() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("a page").await;
    let reference = gateway.finished(&task).await.data()["reference"].as_str().map(ToOwned::to_owned);
    let hold = reference.unwrap_or(task);
    let admin = gateway.another_user("boss", "admin").await;
    let mut all: Vec<String> = PAGES.iter().map(|place| (*place).to_owned()).collect();
    all.extend(of_org(&gateway.caller.org.to_string()));
    all.push(format!("/console/tasks/{hold}"));

    let (mut operator, mut reader) = (operator(&gateway).await, reader(&gateway).await);
    for place in &all {
        let page = operator.get(place).await.shown();
        guarded(&page, place);
        assert_eq!(page.text.matches("<h1>").count(), 1, "{place}");
        let page = reader.get(place).await.shown();
        assert_eq!(forms(&page), 0, "{place}: a reader changes nothing: {}", page.text);
    }
    // Neither by a key, nor by the session of a key.
    for key in [&gateway.caller, &admin] {
        let mut members = Browser::of_members(&gateway).signed_in(&key.text).await;
        let mut browser = Browser::of_operators(&gateway);
        let page = browser.post("/console/sign-in", &[("credential", &key.text)]).await;
        assert_eq!(page.status, 403, "{}", page.text);
        browser.cookies.insert("tollgate_ops".into(), members.cookies.values().next().unwrap().clone());
        browser.cookies.insert("tollgate".into(), members.cookies.values().next().unwrap().clone());
        for place in &all {
            let page = browser.get(place).await;
            assert!(page.status == 303 && page.place().contains("/sign-in"), "{place}: {}", page.status);
        }
        let foreign = members.get(&format!("/console/orgs/{}", gateway.caller.org)).await;
        assert_eq!(foreign.status, 404, "the members' console has no such page");
    }
}

#[tokio::test]
async fn a_reader_is_refused_what_the_api_refuses() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    let mut reader = reader(&gateway).await;
    let org = format!("/console/orgs/{}", gateway.caller.org);
    let common = [
        ("key", "a-key"),
        ("credits", "5"),
        ("reason", "none"),
        ("name", "a name"),
        ("status", "suspended"),
        ("to", "org_00000000000000000000000000000000"),
        ("from", "1"),
        ("version", "1"),
        ("revision", "1"),
        ("factor_bp", "9000"),
        ("content_days", "7"),
        ("task_id", &id),
        ("task_type", "pro-text-to-video"),
        ("issuer", "https://a.example"),
        ("audiences", "a"),
        ("jwks_url", "https://a.example/keys"),
        ("do", "delete"),
        ("id", "n75"),
        ("org", "org_00000000000000000000000000000000"),
        ("user", "usr_00000000000000000000000000000000"),
        ("backend", "kling-3.0"),
    ];
    let mut places = vec![
        "/console".to_owned(),
        "/console/tasks/adopt".to_owned(),
        "/console/prices".to_owned(),
        "/console/prices/roll-back".to_owned(),
        "/console/operators".to_owned(),
        "/console/operators/opt_00000000000000000000000000000000/revoke".to_owned(),
        "/console/providers".to_owned(),
        "/console/providers/idp_00000000000000000000000000000000".to_owned(),
    ];
    for end in [
        "status",
        "limits",
        "limits/quotas",
        "limits/retention",
        "limits/factors",
        "limits/factors/fct_00000000000000000000000000000000/end",
    ] {
        places.push(format!("{org}/{end}"));
    }
    for what in ["grant", "adjust", "transfer", "overdraft", "resume", "threshold"] {
        places.push(format!("{org}/credits/{what}"));
    }
    for what in ["request", "settle", "release", "take-back"] {
        places.push(format!("/console/tasks/{hold}/{what}"));
    }
    for what in ["rename", "price", "remove", "activate", "unschedule", "delete"] {
        places.push(format!("/console/prices/1/{what}"));
    }
    for place in places {
        let page = reader.post(&place, &common).await;
        assert_eq!(page.status, 403, "{place}: {}", page.text);
    }
    assert_eq!(gateway.balance().await[0], 999_600, "nothing was changed");
}

#[tokio::test]
async fn a_form_of_credits_books_once_however_often_it_is_sent() {
    let gateway = TestGateway::start().await;
    let other = gateway.another_org("another customer", 0).await;
    let mut browser = operator(&gateway).await;
    let org = gateway.caller.org;
    let place = format!("/console/orgs/{org}/credits");
    let to = other.org.to_string();
    let available = async || gateway.balance().await[0];
    let key = browser.get(&place).await.shown().input("key");
    for (what, credits, expected) in
        [("grant", "1,000", 1_001_000), ("adjust", "-500", 1_000_500), ("transfer", "100", 1_000_400)]
    {
        let fields = [("key", key.as_str()), ("credits", credits), ("reason", "a test"), ("to", &to)];
        // A double click, a reload, the back button.
        for _ in 0..3 {
            let page = browser.post(&format!("{place}/{what}"), &fields).await;
            assert_eq!(
                (page.status, page.place()),
                (303, format!("{place}?done=booked").as_str()),
                "{}",
                page.text
            );
        }
        assert_eq!(available().await, expected, "{what}");
        // The same form with other figures is no repetition.
        let fields = [("key", key.as_str()), ("credits", "7"), ("reason", "a test"), ("to", &to)];
        let page = browser.post(&format!("{place}/{what}"), &fields).await;
        assert!(
            page.status == 422 && page.text.contains("sent already, with other figures"),
            "{}",
            page.text
        );
        assert_ne!(page.input("key"), key, "sent again, it is another one");
        assert_eq!(available().await, expected, "{what}");
    }
    let page = browser.post(&format!("{place}/overdraft"), &[("key", &key), ("credits", "250")]).await;
    assert_eq!(page.status, 303, "{}", page.text);
    let page = browser.get(&format!("{place}?done=saved")).await.shown();
    assert!(page.text.contains("Saved.") && page.text.contains("250"), "{}", page.text);
    let far = [("key", key.as_str()), ("credits", "-9,000,000"), ("reason", "too much")];
    let key_after = browser.post(&format!("{place}/adjust"), &far).await;
    assert!(key_after.status == 422 || key_after.status == 409, "{}", key_after.text);
    // A grant that expires is listed as such.
    let fields = [("key", "another"), ("credits", "10"), ("reason", "a test"), ("expires", "2099-12-31")];
    assert_eq!(browser.post(&format!("{place}/grant"), &fields).await.status, 303);
    assert!(browser.get(&place).await.shown().text.contains("31 Dec 2099"));
}

#[tokio::test]
async fn an_organisation_is_found_suspended_and_changed() {
    let gateway = TestGateway::start().await;
    gateway.another_org("The Umbrella Works", 0).await;
    let mut browser = operator(&gateway).await;
    let page = browser.get("/console?search=UMBRELLA").await.shown();
    assert!(page.text.contains("The Umbrella Works") && !page.text.contains("a customer"), "{}", page.text);
    let page = browser.get("/console?search=%25").await.shown();
    assert!(page.text.contains("No organisation matches."), "{}", page.text);

    let place = format!("/console/orgs/{}", gateway.caller.org);
    let page = browser.get(&place).await.shown();
    let version = page.input("version");
    let suspend = [("version", version.as_str()), ("status", "suspended")];
    let page = browser.post(&format!("{place}/status"), &suspend).await;
    assert_eq!(
        (page.status, page.place()),
        (303, format!("{place}?done=suspended").as_str()),
        "{}",
        page.text
    );
    until("creates are refused", async || gateway.create(&body("no more")).await.status == 403).await;
    // The form was made before: the organisation has another version now.
    let page = browser.post(&format!("{place}/status"), &[("version", &version), ("status", "active")]).await;
    assert_eq!(page.status, 412, "{}", page.text);
    let version = browser.get(&place).await.shown().input("version");
    assert_eq!(
        browser.post(&format!("{place}/status"), &[("version", &version), ("status", "active")]).await.status,
        303
    );

    let version = browser.get(&format!("{place}/limits")).await.shown().input("version");
    let fields = [
        ("version", version.as_str()),
        ("max_open_tasks", "7"),
        ("create_per_minute", "default"),
        ("price_factor_bp", "9000"),
    ];
    assert_eq!(browser.post(&format!("{place}/limits"), &fields).await.status, 303);
    for (end, fields) in [
        ("limits/quotas", vec![("users", "12"), ("keys", "default")]),
        ("limits/retention", vec![("content_days", "7")]),
        (
            "limits/factors",
            vec![("factor_bp", "8000"), ("reason", "a campaign"), ("valid_until", "2099-01-01T00:00")],
        ),
    ] {
        let page = browser.post(&format!("{place}/{end}"), &fields).await;
        assert_eq!(page.status, 303, "{end}: {}", page.text);
    }
    let page = browser.get(&format!("{place}/limits")).await.shown();
    for shown in ["value=\"7\"", "value=\"12\"", "80 %", "a campaign", "kept for 7 days"] {
        assert!(page.text.contains(shown), "{shown}: {}", page.text);
    }
    let operator = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let log = operator.get("/admin/v1/audit-log?limit=20").await.expect(200);
    let actions: Vec<&str> =
        log["items"].as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    for action in ["update_org", "update_quotas", "update_retention", "create_price_factor"] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
}

#[tokio::test]
async fn a_doubt_is_identified_compared_and_settled() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let (hold, id) = doubt(&gateway, "a boat").await;
    let (other, other_id) = doubt(&gateway, "a plane").await;
    let mut browser = operator(&gateway).await;
    let page = browser.get("/console/doubts").await.shown();
    assert!(page.text.contains(&hold) && page.text.contains(&other), "{}", page.text);
    let place = format!("/console/tasks/{hold}");
    let page = browser.get(&place).await.shown();
    assert!(page.text.contains("Digests of the request") && !page.text.contains("a boat"), "{}", page.text);

    // The request is shown on a click, which is in the audit log.
    let noted = "select count(*) from audit_log where action = 'read_hold_request'";
    let count = async || sqlx::query_scalar::<_, i64>(noted).fetch_one(gateway.db.pool()).await.unwrap();
    assert_eq!(count().await, 0);
    let page = browser.post(&format!("{place}/request"), &[]).await.shown();
    assert!(page.text.contains("a boat") && page.header("cache-control") == "private, no-store");
    assert_eq!(count().await, 1);

    let key = browser.get(&place).await.shown().input("key");
    let settle = format!("{place}/settle");
    let wrong = [("key", key.as_str()), ("task_id", other_id.as_str()), ("reason", "their list")];
    let page = browser.post(&settle, &wrong).await;
    assert_eq!(page.status, 409, "{}", page.text);
    for shown in ["What does not fit", "a boat", "a plane", "name=\"force\"", "their list"] {
        assert!(page.text.contains(shown), "{shown}: {}", page.text);
    }
    let right = [("key", key.as_str()), ("task_id", id.as_str()), ("reason", "their list")];
    for _ in 0..2 {
        let page = browser.post(&settle, &right).await;
        assert_eq!(
            (page.status, page.place()),
            (303, format!("{place}?done=settled").as_str()),
            "{}",
            page.text
        );
    }
    let page = browser.get(&place).await.shown();
    assert!(
        page.text.contains("What an operator recorded") && page.text.contains("take-back"),
        "{}",
        page.text
    );
    let key = page.input("key");
    let page =
        browser.post(&format!("{place}/take-back"), &[("key", &key), ("reason", "it was another one")]).await;
    assert_eq!(
        (page.status, page.place()),
        (303, format!("{place}?done=taken_back").as_str()),
        "{}",
        page.text
    );

    // It is found by the reference and by the vendor's id.
    let key = browser.get(&place).await.shown().input("key");
    assert_eq!(
        browser.post(&settle, &[("key", &key), ("task_id", &id), ("reason", "it is this one")]).await.status,
        303
    );
    for known in [&hold, &id] {
        let page = browser.get(&format!("/console/tasks?id={known}")).await;
        assert_eq!((page.status, page.place()), (303, place.as_str()), "{known}: {}", page.text);
    }
    // One that the vendor never got holds nothing any more once it is released.
    gateway.fault_on_create(json!({"kind": "cut_before"})).await;
    let lost = gateway.create(&body("a train")).await.reference();
    gateway.script(json!({})).await;
    let key = browser.get(&format!("/console/tasks/{lost}")).await.shown().input("key");
    for _ in 0..2 {
        let fields = [("key", key.as_str()), ("reason", "it is not in their list")];
        let page = browser.post(&format!("/console/tasks/{lost}/release"), &fields).await;
        assert_eq!(page.status, 303, "{}", page.text);
    }
    assert_eq!(gateway.balance().await[1], 800, "the boat and the plane are held");
    let page = browser.get("/console/tasks?id=n-no-such").await;
    assert!(
        page.status == 404 && page.text.contains("No task has this id") && page.text.contains("Adopt it")
    );
}

#[tokio::test]
async fn a_price_book_is_drafted_compared_scheduled_and_rolled_back() {
    let gateway = TestGateway::start().await;
    let task = gateway.task("priced").await;
    gateway.finished(&task).await;
    let mut browser = operator(&gateway).await;
    let page = browser.post("/console/prices", &[("name", "dearer"), ("copy_of", "1")]).await;
    assert_eq!((page.status, page.place()), (303, "/console/prices/2?done=created"), "{}", page.text);
    let revision =
        async |browser: &mut Browser| browser.get("/console/prices/2").await.shown().input("revision");
    let old = revision(&mut browser).await;
    let price = [
        ("revision", old.as_str()),
        ("task_type", "pro-text-to-video"),
        ("unit", "second"),
        ("credits", "100"),
        ("credits_with_audio", "160"),
    ];
    assert_eq!(browser.post("/console/prices/2/price", &price).await.status, 303);
    let page = browser.post("/console/prices/2/price", &price).await;
    assert_eq!(page.status, 412, "it has another revision now: {}", page.text);
    let page = browser.get("/console/prices/2/diff").await.shown();
    assert!(page.text.contains("100 a second, 160 with sound"), "{}", page.text);
    let page = browser.get("/console/prices/2/what-if?days=7").await.shown();
    assert!(page.text.contains("a customer") && page.text.contains("+400"), "{}", page.text);

    let now = revision(&mut browser).await;
    let at = [("revision", now.as_str()), ("at", "2099-01-01T00:00")];
    let page = browser.post("/console/prices/2/activate", &at).await;
    assert_eq!(page.place(), "/console/prices/2?done=scheduled", "{}", page.text);
    let now = revision(&mut browser).await;
    let page = browser.post("/console/prices/2/unschedule", &[("revision", &now)]).await;
    assert_eq!(page.place(), "/console/prices/2?done=unscheduled", "{}", page.text);
    let now = revision(&mut browser).await;
    let page = browser.post("/console/prices/2/activate", &[("revision", &now)]).await;
    assert_eq!(page.place(), "/console/prices/2?done=in_force", "{}", page.text);
    let page = browser.post("/console/prices/roll-back", &[("from", "2")]).await;
    assert_eq!(page.place(), "/console/prices/1?done=in_force", "{}", page.text);
    let page = browser.post("/console/prices/roll-back", &[("from", "2")]).await;
    assert_eq!(page.status, 409, "a second click undoes nothing: {}", page.text);
}

#[tokio::test]
async fn a_token_is_shown_once_and_revoked() {
    let gateway = TestGateway::start().await;
    let mut browser = operator(&gateway).await;
    let page = browser
        .post("/console/operators", &[("name", "night shift"), ("role", "operator_read")])
        .await
        .shown();
    assert_eq!(page.header("cache-control"), "private, no-store");
    let at = page.text.find("data-copy=\"tg").or_else(|| page.text.find("class=\"secret\"><code>")).unwrap();
    let token = page.text[at..].split(['"', '<', '>']).find(|part| part.len() > 30).unwrap().to_owned();
    let mut reader = Browser::of_operators(&gateway).signed_in(&token).await;
    reader.get("/console").await.shown();
    let list = browser.get("/console/operators").await.shown();
    assert!(list.text.contains("night shift") && !list.text.contains(&token), "{}", list.text);
    let client = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let tokens = client.get("/admin/v1/operator-tokens").await.expect(200);
    let night = tokens["items"].as_array().unwrap().iter().find(|one| one["name"] == "night shift").unwrap();
    let place = format!("/console/operators/{}/revoke", night["token_id"].as_str().unwrap());
    assert_eq!(browser.post(&place, &[]).await.place(), "/console/operators?done=token_revoked");
    assert_eq!(reader.get("/console").await.status, 303, "its sessions have ended");
}

#[tokio::test]
async fn a_banner_tells_what_needs_a_person_on_every_page() {
    let gateway = TestGateway::start().await;
    let mut browser = operator(&gateway).await;
    assert!(!browser.get("/console").await.shown().text.contains("Needs a person"));
    let stop = "update org_balance set stopped_at = now() where org_id = $1";
    sqlx::query(stop).bind(gateway.caller.org.as_uuid()).execute(gateway.db.pool()).await.unwrap();
    let breach =
        "update audit_run set ended_at = now(), seconds = 1, breaches = '{\"held = sum of open holds\": 3}'";
    sqlx::query(breach).execute(gateway.db.pool()).await.unwrap();
    for place in ["/console", "/console/gateways", "/console/operators"] {
        let page = browser.get(place).await.shown();
        for line in ["Needs a person", "1 organisation is stopped", "The audit found 1 broken rule"] {
            assert!(page.text.contains(line), "{place}: {line}: {}", page.text);
        }
    }
    let page = browser.get("/console/gateways").await.shown();
    assert!(page.text.contains("held = sum of open holds"), "{}", page.text);
    let resume = format!("/console/orgs/{}/credits/resume", gateway.caller.org);
    assert_eq!(browser.post(&resume, &[("reason", "the vendor was ill")]).await.status, 303);
    assert!(!browser.get("/console").await.shown().text.contains("is stopped"));
}

#[tokio::test]
async fn hostile_names_and_parameters_are_shown_as_they_are() {
    const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&amp;";
    let gateway = TestGateway::start().await;
    let change = OrgChange { name: Some(format!("o {HOSTILE}")), ..OrgChange::default() };
    gateway.db.database().update_org(gateway.caller.org, change, None).await.unwrap();
    let mut browser = operator(&gateway).await;
    let created = browser.post("/console/prices", &[("name", HOSTILE), ("copy_of", "1")]).await;
    assert_eq!(created.status, 303, "{}", created.text);
    let mut places: Vec<String> = of_org(&gateway.caller.org.to_string());
    places.extend(
        ["/console", "/console/prices", "/console/prices/2", "/console/prices/2/diff"].map(Into::into),
    );
    for place in &places {
        let page = browser.get(place).await.shown();
        assert!(page.text.contains("&#60;img") || page.text.contains("&lt;img"), "{place}: {}", page.text);
        assert!(!page.text.contains("<img"), "{place}: {}", page.text);
    }
    let asked = "%3Cimg%20src%3Dx%3E%22";
    for place in [
        format!("/console?search={asked}"),
        format!("/console/tasks?id={asked}"),
        format!("/console/tasks/{asked}"),
        format!("/console/audit?actor={asked}&action={asked}&target_id={asked}&org_id={asked}"),
        format!("/console/doubts?org_id={asked}"),
        format!("/console/prices/{asked}"),
        format!("/console/losses?cursor={asked}"),
    ] {
        let page = browser.get(&place).await;
        assert!(page.status < 500 && !page.text.contains("<img"), "{place}: {} {}", page.status, page.text);
        guarded(&page, &place);
    }
}

#[tokio::test]
async fn health_gateways_and_queues_are_told_by_the_api() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let health = operator.get("/admin/v1/health").await.expect(200);
    assert_eq!((&health["doubts"], &health["oldest_doubt"]), (&json!(0), &Value::Null));
    assert_eq!((&health["stopped_organisations"], &health["live_gateways"]), (&json!(0), &json!(1)));
    assert!(
        health["accounts"].as_array().unwrap().iter().all(|account| account["usable"] == true),
        "{health}"
    );
    let gateways = operator.get("/admin/v1/gateways").await.expect(200);
    let this = operator.get("/admin/v1/gateways/this").await.expect(200);
    assert_eq!(gateways["items"][0]["gateway_id"], this["gateway_id"]);
    assert_eq!((&gateways["items"][0]["live"], &this["holds_lease"]), (&json!(true), &json!(true)));
    let pools: Vec<&str> =
        this["pools"].as_array().unwrap().iter().filter_map(|pool| pool["pool"].as_str()).collect();
    for pool in ["callers", "management", "upkeep"] {
        assert!(pools.contains(&pool), "{this}");
    }
    assert!(this["calls"].as_array().unwrap().iter().any(|calls| calls["breaker"] == "closed"), "{this}");
    let request = gateway.request(Method::GET, "/admin/v1/health").send().await.unwrap();
    assert_ne!(request.status(), 200, "the data listener has no operator's operation");
}

#[tokio::test]
async fn running_tasks_are_listed_oldest_first_in_pages() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    let other = gateway.another_org("another customer", 100_000).await;
    let make = async |key: &str, prompt: &str| {
        let create = gateway.request(Method::POST, "/api/generate").bearer_auth(key);
        let task = Answer::to(create.body(body(prompt).to_string())).await.task_id();
        let detail = gateway.request(Method::GET, &format!("/api/tasks/{task}")).bearer_auth(key);
        Answer::to(detail).await.data()["reference"].as_str().unwrap().to_owned()
    };
    let first = make(&gateway.caller.text, "the first").await;
    let second = make(&other.text, "the second").await;
    let third = make(&gateway.caller.text, "the third").await;
    let (in_doubt, _) = doubt(&gateway, "a doubt").await;
    let client = AdminClient::operator(&gateway, OperatorRole::OperatorRead).await;
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/admin/v1/holds/running?limit=1{cursor}")).await.expect(200);
        found.extend(
            page["items"].as_array().unwrap().iter().map(|task| task["hold_id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, [first.clone(), second.clone(), third.clone()]);
    let mut browser = reader(&gateway).await;
    let page = browser.get("/console/running").await.shown();
    let places: Vec<usize> =
        [&first, &second, &third].map(|hold| page.text.find(hold.as_str()).unwrap()).into();
    assert!(places.is_sorted() && !page.text.contains(&in_doubt), "{}", page.text);
    let page = browser.get(&format!("/console/running?org_id={}", other.org)).await.shown();
    assert!(page.text.contains(&second) && !page.text.contains(&first), "{}", page.text);
    let org = browser.get(&format!("/console/orgs/{}", other.org)).await.shown();
    assert!(org.text.contains(&format!("/console/running?org_id={}", other.org)), "{}", org.text);
}
