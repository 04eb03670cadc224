//! The playground: the price before, the proof after.

use crate::support::browser::Browser;
use crate::support::database::until;
use crate::support::gateway::TestGateway;
use crate::support::leaks::PROMPT;

const PLACE: &str = "/console/playground";

fn fields<'a>(key: &'a str, quote: &'a str, what: &'a str, prompt: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("type", "pro-text-to-video"),
        ("prompt", prompt),
        ("duration", "5"),
        ("aspect_ratio", "16:9"),
        ("sound", "yes"),
        ("key", key),
        ("quote", quote),
        ("do", what),
    ]
}

#[tokio::test]
async fn what_was_priced_is_bought_once_however_often_it_is_sent() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let form = browser.get(PLACE).await.shown();
    let key = form.input("key");
    let priced = browser.post(PLACE, &fields(&key, "", "price", PROMPT)).await.shown();
    assert!(priced.text.contains("Create for <span class=\"money\">400"), "{}", priced.text);
    assert!(priced.text.contains("999,600"), "what is left: {}", priced.text);
    assert_eq!(gateway.upstream_creates().await.0, 0, "a price buys nothing");
    let quote = priced.input("quote");
    let created = browser.post(PLACE, &fields(&key, &quote, "create", PROMPT)).await;
    assert_eq!(created.status, 303, "{}", created.text);
    let place = created.place().to_owned();
    // A double click, a reload, the back button.
    for _ in 0..3 {
        let again = browser.post(PLACE, &fields(&key, &quote, "create", PROMPT)).await;
        assert_eq!((again.status, again.place()), (303, place.as_str()), "{}", again.text);
    }
    assert_eq!(gateway.upstream_creates().await, (1, 1));
    until("the video is shown", async || browser.get(&place).await.shown().text.contains("Open the video"))
        .await;
    let page = browser.get(&place).await.shown();
    for proof in ["List price, price book 1", "× 1", "Reserved", "Accepted", "Ended", "ent_"] {
        assert!(page.text.contains(proof), "{proof}: {}", page.text);
    }
    let video = browser.get(&format!("{place}/video")).await;
    assert!(video.status == 303 && video.place().starts_with("http"), "{}", video.place());
}

#[tokio::test]
async fn a_form_that_was_changed_after_its_price_is_priced_again() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let key = browser.get(PLACE).await.shown().input("key");
    let quote = browser.post(PLACE, &fields(&key, "", "price", PROMPT)).await.shown().input("quote");
    let other = format!("{PROMPT} and another");
    let page = browser.post(PLACE, &fields(&key, &quote, "create", &other)).await;
    assert_eq!(page.status, 400);
    assert!(page.text.contains("has changed since the price was shown"), "{}", page.text);
    assert_eq!(gateway.upstream_creates().await.0, 0);
    let created = browser.post(PLACE, &fields(&key, &page.input("quote"), "create", &other)).await;
    assert_eq!(created.status, 303, "{}", created.text);
    // The same form with another prompt is another purchase, and asks.
    let page = browser.post(PLACE, &fields(&key, &quote, "create", PROMPT)).await;
    assert!(page.status == 422 && page.text.contains("Create another one?"), "{}", page.text);
    assert_ne!(page.input("key"), key);
}

#[tokio::test]
async fn what_the_api_refuses_is_told_in_words() {
    let gateway = TestGateway::builder().credits(100).start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let key = browser.get(PLACE).await.shown().input("key");
    let page = browser.post(PLACE, &fields(&key, "", "price", PROMPT)).await.shown();
    assert!(page.text.contains("The balance lacks") && page.text.contains("disabled"), "{}", page.text);
    let quote = page.input("quote");
    let page = browser.post(PLACE, &fields(&key, &quote, "create", PROMPT)).await;
    assert!(page.status == 402 && page.text.contains("INSUFFICIENT_CREDITS"), "{}", page.text);
    assert!(page.text.contains("data-copy=\"req_"), "the request's id: {}", page.text);
    let page = browser.post(PLACE, &fields(&key, "", "price", " ")).await.shown();
    assert!(page.text.contains("INVALID_PROMPT"), "{}", page.text);
}

#[tokio::test]
async fn every_type_of_the_price_book_has_a_form_that_its_validation_takes() {
    let gateway = TestGateway::start().await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let prices = gateway.get("/api/prices").await.expect(200);
    for one in prices["data"]["types"].as_array().unwrap() {
        let name = one["type"].as_str().unwrap();
        let form = browser.get(&format!("{PLACE}?type={name}")).await.shown();
        assert!(form.text.contains(&format!("<option value=\"{name}\" selected>")), "{name}");
        let mut sent =
            vec![("type", name), ("prompt", PROMPT), ("key", "k"), ("do", "price"), ("duration", "5")];
        for field in ["image", "images", "video"] {
            if form.text.contains(&format!("name=\"{field}\"")) {
                sent.push((field, "https://media.example/file"));
            }
        }
        let page = browser.post(PLACE, &sent).await.shown();
        assert!(page.text.contains("Create for"), "{name}: {}", page.text);
    }
}
