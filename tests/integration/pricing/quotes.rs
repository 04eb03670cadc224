//! Quotes that bind: the price stays what was promised, for that body of that organisation, and not longer.

use std::collections::BTreeMap;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tollgate::credits::{Credits, PriceFactor};
use tollgate::pricing::{BookVersion, Tariff};
use tollgate::quote::{Quote, SigningKey};
use tollgate::secret::Secret;
use tollgate::store::{Fingerprint, KeySpec, OrgChange};

use crate::support::database::until;
use crate::support::gateway::{Answer, Caller, ENDLESS, MASTER_KEY, TestGateway, body};
use crate::support::process::{Process, Scratch};

fn quoting(gateway: &TestGateway, body: &Value, valid_for: &str) -> RequestBuilder {
    gateway.call(Method::POST, &format!("/api/quote?valid_for={valid_for}")).body(body.to_string())
}

async fn promise(gateway: &TestGateway, body: &Value) -> String {
    let data = Answer::to(quoting(gateway, body, "300")).await.data();
    data["quote"].as_str().unwrap().to_owned()
}

async fn create(gateway: &TestGateway, body: &Value, quote: &str) -> Answer {
    Answer::to(gateway.creating(body.to_string()).header("x-tollgate-quote", quote)).await
}

async fn plain(gateway: &TestGateway) -> i64 {
    let call = gateway.call(Method::POST, "/api/quote").body(body("x").to_string());
    Answer::to(call).await.data()["credits"].as_i64().unwrap()
}

/// Makes text-to-video cost so much, and waits until the gateway knows.
async fn reprice(gateway: &TestGateway, credits: i64) {
    let price = Tariff::Fixed { credits: Credits::new(credits) };
    let prices = BTreeMap::from([("pro-text-to-video".to_owned(), price)]);
    let db = gateway.db.database();
    let version = db.create_book("another", None, &prices).await.unwrap();
    db.put_in_force(version, None, None).await.unwrap();
    until("the new price is in force", async || plain(gateway).await == credits).await;
}

/// Refused with these words, and nothing was held.
async fn refused(gateway: &TestGateway, answer: Answer, why: &str) {
    let before = gateway.holds().await.len();
    let told = answer.refused(400, "INVALID_REQUEST");
    assert!(told["message"].as_str().unwrap().contains(why), "{told}");
    assert_eq!(gateway.holds().await.len(), before);
}

#[tokio::test]
async fn a_promised_price_holds_when_book_and_factor_change() {
    let gateway = TestGateway::builder().task_time(ENDLESS).start().await;
    gateway.script(json!({"record": true})).await;
    let quote = promise(&gateway, &body("x")).await;
    reprice(&gateway, 900).await;
    let dearer = OrgChange { price_factor: PriceFactor::new(20_000), ..OrgChange::default() };
    gateway.db.database().update_org(gateway.caller.org, dearer, None).await.unwrap();
    until("the factor is known", async || plain(&gateway).await == 1800).await;

    let answer = create(&gateway, &body("x"), &quote).await;
    assert_eq!(answer.data()["consumed_credits"], 400);
    let hold: (i32, i32, i64, i64) =
        sqlx::query_as("select price_book, factor_bp, list_price, amount from task")
            .fetch_one(gateway.db.pool())
            .await
            .unwrap();
    assert_eq!(hold, (1, 10_000, 400, 400));
    // What is sent is still written out in full.
    let sent = gateway.upstream_requests().await;
    let sent = sent.iter().rfind(|request| request["method"] == "POST").unwrap();
    assert!(sent["body"].as_str().unwrap().contains(r#""sound":true"#), "{sent}");
    assert_eq!(gateway.create(&body("x")).await.data()["consumed_credits"], 1800, "without it, as of now");
    // It promises a price, not one task only.
    create(&gateway, &body("x"), &quote).await.expect(200);
    assert_eq!(gateway.balance().await, [997_400, 2600, 0]);
}

#[tokio::test]
async fn a_quote_for_something_else_is_refused_and_says_why() {
    let gateway = TestGateway::start().await;
    let quote = promise(&gateway, &body("x")).await;
    refused(&gateway, create(&gateway, &body("y"), &quote).await, "for another body").await;
    let spaced = gateway.creating(format!("{} ", body("x"))).header("x-tollgate-quote", &quote);
    refused(&gateway, Answer::to(spaced).await, "for another body").await;
    let stranger = gateway.another_org("a stranger", 1000).await;
    let foreign = gateway.request(Method::POST, "/api/generate").bearer_auth(&stranger.text);
    let foreign = foreign.body(body("x").to_string()).header("x-tollgate-quote", &quote);
    refused(&gateway, Answer::to(foreign).await, "another organisation").await;
    let mut changed = quote.clone();
    let last = if quote.ends_with('0') { "1" } else { "0" };
    changed.replace_range(quote.len() - 1.., last);
    // The price in it: 400 is 190 in hexadecimal digits.
    let cheaper = quote.replacen("0000000000000190", "0000000000000001", 1);
    assert_ne!(cheaper, quote);
    for forged in [changed.as_str(), &cheaper, "", "garbage", "tgq1_", &quote[..quote.len() - 2]] {
        refused(&gateway, create(&gateway, &body("x"), forged).await, "is not from POST /api/quote").await;
    }
    let twice = gateway.creating(body("x").to_string()).header("x-tollgate-quote", &quote);
    refused(
        &gateway,
        Answer::to(twice.header("x-tollgate-quote", &quote)).await,
        "X-Tollgate-Quote is given twice",
    )
    .await;
    assert_eq!(gateway.upstream_creates().await, (0, 0));
    // The organisation's, not the key's.
    let colleague = gateway.another_user("a colleague", "member").await;
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&colleague.text);
    Answer::to(call.body(body("x").to_string()).header("x-tollgate-quote", &quote)).await.expect(200);
}

#[tokio::test]
async fn a_quote_binds_until_it_expires_and_a_replay_needs_none() {
    let gateway = TestGateway::start().await;
    let data = Answer::to(quoting(&gateway, &body("x"), "2")).await.data();
    let quote = data["quote"].as_str().unwrap();
    let until_ = data["valid_until"].as_str().unwrap();
    let keyed = |key: &str| {
        let call = gateway.creating(body("x").to_string()).header("x-tollgate-quote", quote);
        Answer::to(call.header("idempotency-key", key))
    };
    let first = keyed("k").await;
    first.expect(200);
    let pool = gateway.db.pool();
    until("it has expired", async || {
        sqlx::query_scalar("select clock_timestamp() > $1::timestamptz + interval '100 ms'")
            .bind(until_)
            .fetch_one(pool)
            .await
            .unwrap()
    })
    .await;
    refused(&gateway, keyed("another").await, "has expired").await;
    assert_eq!(keyed("k").await.text, first.text, "what was asked before is answered as before");
    assert_eq!(gateway.upstream_creates().await, (1, 1));
}

#[tokio::test]
async fn a_quote_gives_no_right_but_the_price() {
    let gateway = TestGateway::builder().credits(399).start().await;
    let quote = promise(&gateway, &body("x")).await;
    create(&gateway, &body("x"), &quote).await.refused(402, "INSUFFICIENT_CREDITS");
    let spec = KeySpec { allowed_types: Some(vec!["std-text-to-video".into()]), ..KeySpec::default() };
    let narrow: Caller = gateway.another_key(spec).await;
    let call = gateway.request(Method::POST, "/api/generate").bearer_auth(&narrow.text);
    let call = call.body(body("x").to_string()).header("x-tollgate-quote", &quote);
    Answer::to(call).await.refused(403, "TYPE_NOT_ALLOWED");
    assert_eq!(gateway.holds().await.len(), 0);
}

#[tokio::test]
async fn how_long_a_price_can_be_promised_is_configured() {
    let gateway = TestGateway::builder().config(|config| config.quotes.max_valid_seconds = 60).start().await;
    for wrong in ["0", "61", "-1", "1.5", "", "ten"] {
        let told = Answer::to(quoting(&gateway, &body("x"), wrong)).await.refused(400, "INVALID_REQUEST");
        assert!(told["message"].as_str().unwrap().contains("from 1 to 60"), "{told}");
    }
    let data = Answer::to(quoting(&gateway, &body("x"), "60")).await.data();
    assert_eq!((&data["credits"], &data["price_book"]), (&json!(400), &json!(1)));
    let none = TestGateway::builder().config(|config| config.quotes.max_valid_seconds = 0).start().await;
    let told = Answer::to(quoting(&none, &body("x"), "1")).await.refused(400, "INVALID_REQUEST");
    assert!(told["message"].as_str().unwrap().contains("does not promise"), "{told}");
    let plain = none.call(Method::POST, "/api/quote").body(body("x").to_string());
    let data = Answer::to(plain).await.data();
    assert!(data.get("quote").is_none() && data.get("valid_until").is_none(), "{data}");
}

#[tokio::test]
async fn every_gateway_keeps_the_promises_of_the_others_also_over_a_new_key() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"http://{}\"\nmaster_key = \"{MASTER_KEY}\"\n",
        gateway.db.url(),
        gateway.simulator()
    );
    let mut process = Process::start(&["serve", "--config", &scratch.file("gateway.toml", &config)]);
    let there = process.event("serving").await["data"].as_str().unwrap().to_owned();
    let here = promise(&gateway, &body("x")).await;
    let elsewhere = async |path: &str, body: &Value, quote: Option<&str>| {
        let call = gateway.client.post(format!("{there}{path}")).bearer_auth(&gateway.caller.text);
        let call = match quote {
            Some(quote) => call.header("x-tollgate-quote", quote),
            None => call,
        };
        Answer::to(call.body(body.to_string())).await
    };
    let theirs = elsewhere("/api/quote?valid_for=300", &body("x"), None).await.data();
    let theirs = theirs["quote"].as_str().unwrap();
    let generation = gateway.db.database().rotate_signing_key().await.unwrap();
    assert_eq!(generation, 2, "both have used one key");
    reprice(&gateway, 900).await;
    assert_eq!(create(&gateway, &body("x"), theirs).await.data()["consumed_credits"], 400);
    let created = elsewhere("/api/generate", &body("x"), Some(&here)).await;
    assert_eq!(created.data()["consumed_credits"], 400);
    // The new key signs when all had time to read it; until then the former one.
    let quote = promise(&gateway, &body("x")).await;
    assert!(quote.starts_with("tgq1_00000001"), "{quote}");
    sqlx::query("update signing_key set created_at = created_at - interval '1 minute' where generation = 2")
        .execute(gateway.db.pool())
        .await
        .unwrap();
    until("the new key signs", async || promise(&gateway, &body("x")).await.starts_with("tgq1_00000002"))
        .await;
    let log: Vec<(String, Option<String>)> = sqlx::query_as(
        "select target_id, after::text from audit_log where target_kind = 'signing_key' order by audit_id",
    )
    .fetch_all(gateway.db.pool())
    .await
    .unwrap();
    assert_eq!(log[..2], [("1".to_owned(), None), ("2".to_owned(), None)], "never the key itself");
    process.terminate();
    assert_eq!(process.ended().await, 0);
}

/// The newest signing key, as whoever can read the database finds it.
async fn stolen_key(gateway: &TestGateway) -> SigningKey {
    let (generation, created_at, key): (i32, time::OffsetDateTime, Vec<u8>) = sqlx::query_as(
        "select generation, created_at, key from signing_key order by generation desc limit 1",
    )
    .fetch_one(gateway.db.pool())
    .await
    .unwrap();
    SigningKey::new(generation, created_at, &key).unwrap()
}

/// A quote for the caller's organisation that promises a video of list price 400 for `bp` basis points of it.
fn forgery(gateway: &TestGateway, body: &Value, bp: i32, expires: i64) -> Quote {
    let factor = PriceFactor::new(bp).unwrap();
    Quote {
        org: gateway.caller.org,
        book: BookVersion::new(1),
        factor,
        hold: factor.apply(Credits::new(400)).unwrap(),
        fingerprint: Fingerprint::of(body.to_string().as_bytes()).as_bytes().try_into().unwrap(),
        expires,
    }
}

#[tokio::test]
async fn a_stolen_signing_key_buys_nothing_below_price_and_nothing_for_long() {
    let gateway = TestGateway::start().await;
    promise(&gateway, &body("x")).await;
    let key = stolen_key(&gateway).await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let forged = |bp, expires| forgery(&gateway, &body("x"), bp, expires).sign(&key);
    let year_2100 = 4_102_444_800;
    for bp in [0, 10_000] {
        refused(&gateway, create(&gateway, &body("x"), &forged(bp, year_2100)).await, "valid for longer")
            .await;
    }
    for bp in [0, 1, 9_999, 10_001] {
        let answer = create(&gateway, &body("x"), &forged(bp, now + 300)).await;
        refused(&gateway, answer, "never in force").await;
    }
    let dear = Tariff::Fixed { credits: Credits::new(1) };
    let prices = BTreeMap::from([("pro-text-to-video".to_owned(), dear)]);
    let draft = gateway.db.database().create_book("a draft", None, &prices).await.unwrap();
    let of_draft =
        Quote { book: draft, hold: Credits::new(1), ..forgery(&gateway, &body("x"), 10_000, now + 300) };
    refused(&gateway, create(&gateway, &body("x"), &of_draft.sign(&key)).await, "never in force").await;
    assert_eq!(gateway.upstream_creates().await, (0, 0));
    // What was really the organisation's is no forgery, whoever signs it.
    create(&gateway, &body("x"), &forged(10_000, now + 300)).await.expect(200);
}

#[tokio::test]
async fn a_price_that_the_organisation_had_when_it_was_quoted_stays_promised() {
    let gateway = TestGateway::start().await;
    let db = gateway.db.database();
    let org = gateway.caller.org;
    let change = async |bp: i32, shown: i64| {
        let factor = OrgChange { price_factor: PriceFactor::new(bp), ..OrgChange::default() };
        db.update_org(org, factor, None).await.unwrap();
        until("the factor is known", async || plain(&gateway).await == shown).await;
    };
    change(5_000, 200).await;
    let quote = promise(&gateway, &body("x")).await;
    for (bp, shown) in [(20_000, 800), (30_000, 1200)] {
        change(bp, shown).await;
        assert_eq!(create(&gateway, &body("x"), &quote).await.data()["consumed_credits"], 200);
    }
    // Once nobody can have been given such a quote any more, it is none.
    sqlx::query("update former_price_factor set replaced_at = replaced_at - interval '16 minutes'")
        .execute(gateway.db.pool())
        .await
        .unwrap();
    change(40_000, 1600).await;
    refused(&gateway, create(&gateway, &body("x"), &quote).await, "never in force").await;
}

#[tokio::test]
async fn with_a_secret_of_the_gateways_the_database_is_not_enough_to_sign() {
    const SECRET: &str = "a secret of thirty-two characters";
    let gateway = TestGateway::builder()
        .config(|config| config.quotes.secret = Some(Secret::new(SECRET)))
        .start()
        .await;
    let quote = promise(&gateway, &body("x")).await;
    let key = stolen_key(&gateway).await;
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let honest = forgery(&gateway, &body("x"), 10_000, now + 300);
    refused(&gateway, create(&gateway, &body("x"), &honest.sign(&key)).await, "is not from POST /api/quote")
        .await;
    create(&gateway, &body("x"), &quote).await.expect(200);
    create(&gateway, &body("x"), &honest.sign(&key.under(&Secret::new(SECRET)))).await.expect(200);
}
