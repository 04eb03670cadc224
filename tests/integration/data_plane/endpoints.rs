//! Our own calls: quote, credits, tasks; and price books that change under a running gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::credits::Credits;
use tollgate::pricing::Tariff;

use crate::support::database::{soon, until};
use crate::support::gateway::{Answer, Caller, ENDLESS, TestGateway, body};

async fn quote(gateway: &TestGateway, body: &Value) -> Value {
    Answer::to(gateway.call(Method::POST, "/api/quote").body(body.to_string())).await.data()
}

async fn get(gateway: &TestGateway, caller: &Caller, path: &str) -> Answer {
    Answer::to(gateway.request(Method::GET, path).bearer_auth(&caller.text)).await
}

async fn create(gateway: &TestGateway, caller: &Caller, prompt: &str) -> String {
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&caller.text);
    Answer::to(call.body(body(prompt).to_string())).await.task_id()
}

/// Imports a book in which a second of text-to-video costs so much, and puts it in force.
async fn activate(gateway: &TestGateway, credits: i64) -> i32 {
    let price = Tariff::Second { credits: Credits::new(credits), credits_with_audio: None };
    let prices = BTreeMap::from([("pro-text-to-video".to_owned(), price)]);
    let db = gateway.db.database();
    let version = db.create_book("another book", None, &prices).await.unwrap();
    db.put_in_force(version, None, None).await.unwrap();
    version.get()
}

#[tokio::test]
async fn a_quote_prices_without_running() {
    let gateway = TestGateway::builder().credits(1000).start().await;
    let data = quote(&gateway, &body("x")).await;
    assert_eq!((&data["credits"], &data["available"]), (&json!(400), &json!(1000)));
    assert_eq!(data["price_book"], 1);
    let dear = json!({"type": "pro-text-to-video", "prompt": "x", "duration": 15});
    assert_eq!(quote(&gateway, &dear).await["credits"], 1200, "more than there is, and still a quote");
    assert_eq!(gateway.holds().await.len(), 0);
    assert_eq!(gateway.upstream_creates().await, (0, 0));
}

#[tokio::test]
async fn credits_show_the_balance_of_the_organisation() {
    let gateway = TestGateway::builder().credits(1000).task_time(ENDLESS).start().await;
    gateway.task("x").await;
    gateway.fault_on_create(json!({"kind": "cut_before"})).await;
    gateway.create(&body("y")).await.reference();
    let colleague = gateway.another_user("a colleague", "member").await;
    for caller in [&gateway.caller, &colleague] {
        let data = get(&gateway, caller, "/api/credits").await.data();
        let shown = ["available", "held", "consumed", "granted"].map(|field| data[field].as_i64().unwrap());
        assert_eq!(shown, [200, 800, 0, 1000]);
        assert!(data["budgets"].is_array());
    }
}

#[tokio::test]
async fn a_new_book_is_in_force_at_once_and_running_tasks_keep_theirs() {
    let gateway = TestGateway::start().await;
    gateway.fault_on_create(json!({"kind": "task_ms", "ms": 2000})).await;
    let old = gateway.task("old price").await;
    let version = activate(&gateway, 10).await;
    soon("the new price is in force", async || quote(&gateway, &body("x")).await["credits"] == 50).await;
    assert_eq!(quote(&gateway, &body("x")).await["price_book"], version);
    gateway
        .create(&json!({"type": "o3-pro-video-edit", "prompt": "x", "video": "u"}))
        .await
        .refused(400, "INVALID_TYPE");

    gateway.finished(&old).await;
    assert_eq!(gateway.balance().await, [999_600, 0, 400]);
    assert_eq!(gateway.last_hold().await.price_book, 1);
    // The vendor still consumes 400: more than the new price, and charged in full.
    gateway.script(json!({})).await;
    let new = gateway.create(&body("new price")).await;
    assert_eq!(new.data()["consumed_credits"], 50);
    assert_eq!(gateway.finished(&new.task_id()).await.data()["consumed_credits"], 400);
    assert_eq!(gateway.last_hold().await.price_book, version);
}

#[tokio::test]
async fn a_book_comes_into_force_by_the_passing_of_time() {
    let gateway = TestGateway::start().await;
    let price = Tariff::Fixed { credits: Credits::new(7) };
    let prices = BTreeMap::from([("pro-text-to-video".to_owned(), price)]);
    let db = gateway.db.database();
    let version = db.create_book("later", None, &prices).await.unwrap();
    let at = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    db.put_in_force(version, Some(at), None).await.unwrap();
    until("its time has come", async || {
        let price = quote(&gateway, &body("x")).await["credits"].as_i64().unwrap();
        // The database's clock is known to half of the time that it takes to say it.
        let early = time::OffsetDateTime::now_utc() + Duration::from_secs(1) < at;
        assert!(price == 400 || (price == 7 && !early), "{price}, and the other book begins at {at}");
        price == 7
    })
    .await;
}

fn ids(page: &Value) -> Vec<String> {
    page["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["task_id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn tasks_come_newest_first_in_pages_that_miss_and_repeat_nothing() {
    let gateway = TestGateway::start().await;
    let mut expected = Vec::new();
    for number in 0..7 {
        expected.insert(0, gateway.task(&format!("{number}")).await);
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = gateway.get(&format!("/api/tasks?limit=3{cursor}")).await.data();
        seen.extend(ids(&page));
        // What is created meanwhile does not move the pages.
        gateway.task("meanwhile").await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, expected);
    assert_eq!(ids(&gateway.get("/api/tasks").await.data()).len(), 10);
    for query in [
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=n75x",
        "status=DONE",
        "user=me",
        "key=k",
        "since=yesterday",
    ] {
        gateway.get(&format!("/api/tasks?{query}")).await.refused(400, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn tasks_are_filtered() {
    let gateway = TestGateway::start().await;
    let done = gateway.task("done").await;
    gateway.finished(&done).await;
    gateway.fault_on_create(json!({"kind": "outcome", "status": "FAILED"})).await;
    let failed = gateway.task("failed").await;
    gateway.finished(&failed).await;
    gateway.fault_on_create(json!({"kind": "cut_before"})).await;
    let doubtful = gateway.create(&body("doubtful")).await.reference();
    gateway.fault_on_create(json!({"kind": "task_ms", "ms": 86_400_000})).await;
    let second_key = gateway.another_key(Default::default()).await;
    let running = create(&gateway, &second_key, "running").await;

    let middle = sqlx::query_scalar::<_, time::OffsetDateTime>(
        "select max(created_at) from task where state = 'RELEASED'",
    );
    let middle = middle.fetch_one(gateway.db.pool()).await.unwrap();
    let middle = middle.format(&time::format_description::well_known::Rfc3339).unwrap().replace('+', "%2B");
    for (query, expected) in [
        ("status=IN_PROGRESS".to_owned(), vec![&running, &doubtful]),
        ("status=SUCCESS".into(), vec![&done]),
        ("status=FAILED".into(), vec![&failed]),
        ("status=IN_DOUBT".into(), vec![&doubtful]),
        ("status=RUNNING".into(), vec![&running]),
        (format!("key={}", second_key.key), vec![&running]),
        (format!("key={}", gateway.caller.key), vec![&doubtful, &failed, &done]),
        (format!("user={}", gateway.caller.user), vec![&running, &doubtful, &failed, &done]),
        (format!("since={middle}"), vec![&running, &doubtful, &failed]),
        (format!("until={middle}"), vec![&done]),
        (format!("since={middle}&status=FAILED"), vec![&failed]),
    ] {
        let page = gateway.get(&format!("/api/tasks?{query}")).await.data();
        assert_eq!(ids(&page).iter().collect::<Vec<_>>(), expected, "{query}");
    }
    let page = gateway.get("/api/tasks").await.data();
    let credits: Vec<i64> = page["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["consumed_credits"].as_i64().unwrap())
        .collect();
    assert_eq!(credits, [400, 400, 0, 400]);
}

#[tokio::test]
async fn a_member_lists_its_own_tasks_and_an_admin_all() {
    let gateway = TestGateway::start().await;
    let colleague = gateway.another_user("a colleague", "member").await;
    let admin = gateway.another_user("an admin", "admin").await;
    let stranger = gateway.another_org("another customer", 1000).await;
    let mine = gateway.task("mine").await;
    let theirs = create(&gateway, &colleague, "theirs").await;
    let foreign = create(&gateway, &stranger, "foreign").await;
    let list = async |caller: &Caller, query: &str| {
        ids(&get(&gateway, caller, &format!("/api/tasks{query}")).await.data())
    };
    assert_eq!(list(&gateway.caller, "").await, [mine.as_str()]);
    assert_eq!(list(&colleague, "").await, [theirs.as_str()]);
    assert_eq!(list(&admin, "").await, [theirs.as_str(), mine.as_str()]);
    assert_eq!(list(&stranger, "").await, [foreign.as_str()]);
    let of_colleague = format!("?user={}", colleague.user);
    assert_eq!(list(&admin, &of_colleague).await, [theirs.as_str()]);
    get(&gateway, &gateway.caller, &format!("/api/tasks{of_colleague}")).await.refused(403, "FORBIDDEN");
    assert!(list(&admin, &format!("?user={}", stranger.user)).await.is_empty());
    // The state of any task of the organisation can be asked for.
    get(&gateway, &colleague, &format!("/api/status?task_id={mine}")).await.expect(200);
    get(&gateway, &colleague, &format!("/api/status?task_id={foreign}")).await.refused(404, "TASK_NOT_FOUND");
}
