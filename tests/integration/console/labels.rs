//! Labels in pages: typed in the playground, shown with clips, filtered and summed by.

use crate::support::browser::Browser;
use crate::support::gateway::{Answer, TestGateway, body};
use crate::support::leaks::PROMPT;

const PLACE: &str = "/console/playground";

fn form<'a>(key: &'a str, quote: &'a str, what: &'a str, labels: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("type", "pro-text-to-video"),
        ("prompt", PROMPT),
        ("duration", "5"),
        ("aspect_ratio", "16:9"),
        ("sound", "yes"),
        ("labels", labels),
        ("key", key),
        ("quote", quote),
        ("do", what),
    ]
}

#[tokio::test]
async fn what_is_typed_in_the_playground_is_shown_with_the_clip_and_found_by() {
    const LABELS: &str = "project=caf\u{e9} 5%, shot=12";
    let gateway = TestGateway::start().await;
    let other = gateway.task("without a label").await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    let key = browser.get(PLACE).await.shown().input("key");
    for what in ["price", "create"] {
        let page = browser.post(PLACE, &form(&key, "", what, "project")).await.shown();
        assert!(page.text.contains("&#39;project&#39; is no label"), "{}", page.text);
        assert!(page.text.contains("name=\"labels\" value=\"project\""), "{}", page.text);
    }
    let priced = browser.post(PLACE, &form(&key, "", "price", LABELS)).await.shown();
    assert!(priced.text.contains("X-Tollgate-Labels: project=caf%C3%A9%205%25, shot=12"), "{}", priced.text);
    let created = browser.post(PLACE, &form(&key, &priced.input("quote"), "create", LABELS)).await;
    assert_eq!(created.status, 303, "{}", created.text);
    let place = created.place().to_owned();
    let task = place.rsplit('/').next().unwrap().to_owned();
    gateway.finished(&task).await;

    let link = "/console/clips?label=project%3Dcaf%C3%A9+5%25";
    let page = browser.get(&place).await.shown();
    assert!(page.text.contains("project=caf\u{e9} 5%") && page.text.contains(link), "{}", page.text);
    let again = page.text.split_once("/console/playground?").unwrap().1.split_once('"').unwrap().0;
    let again = again.replace("&#38;", "&").replace("&amp;", "&");
    let page = browser.get(&format!("{PLACE}?{again}")).await.shown();
    for kept in [LABELS, PROMPT, "value=\"5\""] {
        assert!(page.text.contains(kept), "{kept} is lost: {}", page.text);
    }
    let shown = |text: &str, task: &str| text.contains(&format!("data-copy=\"{task}\""));
    for view in ["table", "grid"] {
        let page = browser.get(&format!("{link}&view={view}")).await.shown();
        assert!(page.text.contains("shot=12") && page.text.contains(PROMPT), "{view}: {}", page.text);
        assert!(page.text.contains("5&nbsp;s"), "{view}: {}", page.text);
    }
    let page = browser.get(link).await.shown();
    assert!(shown(&page.text, &task) && !shown(&page.text, &other), "{}", page.text);
    let page = browser.get("/console/clips?label=project%3Dnone").await.shown();
    assert!(page.text.contains("Nothing matches"), "{}", page.text);
    let page = browser.get("/console/clips?type=pro-text-to-video").await.shown();
    assert!(shown(&page.text, &task), "{}", page.text);
    let page = browser.get("/console/clips?type=std-text-to-video").await.shown();
    assert!(!shown(&page.text, &task) && page.text.contains("Nothing matches"), "{}", page.text);

    let usage = "/console/usage?by=label";
    let page = browser.get(usage).await.shown();
    assert!(page.text.contains("By which label?") && page.text.contains("label=project"), "{}", page.text);
    let page = browser.get(&format!("{usage}&label=project")).await.shown();
    assert!(page.text.contains("project=caf\u{e9} 5%") && page.text.contains("400"), "{}", page.text);
    assert!(page.text.contains("without the label") || !shown(&page.text, &other), "{}", page.text);
    let table = browser.get("/console/usage.csv?by=label&label=project").await.shown();
    assert!(table.text.contains("caf\u{e9} 5%"), "{}", table.text);
    let page = browser.get(&format!("{usage}&label=project&from=2020-01-01&to=2020-12-31")).await.shown();
    assert!(page.text.contains("31 days at most"), "{}", page.text);
}

#[tokio::test]
async fn labels_that_are_markup_are_shown_as_they_are() {
    let gateway = TestGateway::start().await;
    let sent = gateway.creating(body("x").to_string()).header("x-tollgate-labels", "p=<b>\"'&amp;");
    let task = Answer::to(sent).await.task_id();
    gateway.finished(&task).await;
    let mut browser = Browser::of_members(&gateway).signed_in(&gateway.caller.text).await;
    for place in ["/console", "/console/clips", "/console/clips?view=grid", "/console/usage?by=label&label=p"]
    {
        let page = browser.get(place).await.shown();
        assert!(!page.text.contains("<b>") && page.text.contains("&#60;b&#62;"), "{place}: {}", page.text);
    }
}
