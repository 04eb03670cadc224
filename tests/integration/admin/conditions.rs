//! Headers, names and tables of the management API, as proxies, browsers and spreadsheets see them.

use reqwest::Method;
use serde_json::json;
use tollgate::store::OperatorRole;

use crate::support::admin_client::AdminClient;
use crate::support::gateway::{RawClient, TestGateway};

#[tokio::test]
async fn conditions_compare_versions_however_a_proxy_hands_them_on() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let path = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let mut overdraft = 0;
    let forms: [fn(&str) -> String; 7] = [
        str::to_owned,
        |tag| format!("W/{tag}"),
        |tag| format!("{}-gzip\"", tag.trim_end_matches('"')),
        |tag| format!("{}--gzip\"", tag.trim_end_matches('"')),
        |tag| format!("\"1000000\", W/{tag}"),
        |tag| format!("\"not ours\",{tag}, \"1000001\""),
        |_| "*".into(),
    ];
    for form in forms {
        let tag = form(&operator.get(&path).await.etag.unwrap());
        overdraft += 1;
        let body = Some(json!({"overdraft": overdraft}));
        let edited = operator.call_with(Method::PATCH, &path, body, &[("if-match", &tag)]).await;
        assert_eq!(edited.expect(200)["overdraft"], overdraft, "{tag}");
    }
    for (never, status) in [("\"abc\"", 412), ("\"1000000\", \"1000001\"", 412), ("abc", 400), ("\"1", 400)] {
        let body = Some(json!({"overdraft": 0}));
        let answer = operator.call_with(Method::PATCH, &path, body, &[("if-match", never)]).await;
        assert_eq!(answer.status.as_u16(), status, "{never}: {answer:?}");
    }
    let seen = operator.get(&path).await;
    assert_eq!(seen.body["overdraft"], overdraft);
    let tag = seen.etag.unwrap();
    for known in [tag.clone(), format!("W/{tag}"), format!("\"0\", {tag}"), "*".into()] {
        let answer = operator.call_with(Method::GET, &path, None, &[("if-none-match", &known)]).await;
        assert_eq!((answer.status.as_u16(), answer.etag.as_ref()), (304, Some(&tag)), "{known}");
    }
    let changed = operator.call_with(Method::GET, &path, None, &[("if-none-match", "\"0\"")]).await;
    changed.expect(200);
}

#[tokio::test]
async fn names_are_what_they_look_like_and_time_zones_are_the_same_on_every_host() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let user = gateway.caller.user.to_string();
    for bad in ["\u{200b}\u{2060}", "A\u{202e}cme", "\u{2066}x", "p\u{430}ypal", " "] {
        for (path, mut body) in [
            ("/admin/v1/orgs".to_owned(), json!({})),
            (format!("{org}/teams"), json!({})),
            (format!("{org}/users"), json!({})),
            (format!("{org}/keys"), json!({"user_id": user})),
            ("/admin/v1/operator-tokens".into(), json!({"role": "operator"})),
            ("/admin/v1/price-books".into(), json!({"prices": {"x": {"unit": "second", "credits": 1}}})),
            (
                "/admin/v1/identity-providers".into(),
                json!({"org_id": gateway.caller.org, "issuer": "https://id.example.com", "audiences": ["x"],
                       "jwks_url": "https://id.example.com/keys"}),
            ),
        ] {
            body["name"] = bad.into();
            let detail = operator.post(&path, body).await.expect(400)["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains("a name must"), "{path}: {detail}");
        }
    }
    let made =
        operator.post("/admin/v1/orgs", json!({"name": " Gu\u{308}n  AŞ ", "time_zone": "Europe/Istanbul"}));
    assert_eq!(made.await.expect(201)["name"], "G\u{fc}n AŞ");
    for bad in ["localtime", "posixrules", "posix/Europe/Berlin", "right/UTC", "Europe/Nowhere", "+03", ""] {
        operator.post("/admin/v1/orgs", json!({"name": "zone", "time_zone": bad})).await.expect(400);
        operator.patch(&org, json!({"time_zone": bad})).await.expect(400);
    }
}

#[tokio::test]
async fn a_table_makes_no_formula_and_can_say_that_it_is_utf_8() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, OperatorRole::Operator).await;
    let org = format!("/admin/v1/orgs/{}", gateway.caller.org);
    let reason = "x;=cmd|' /C calc'!A0;Gün";
    let adjust = json!({"credits": 3, "reason": reason});
    operator.post(&format!("{org}/credits/adjustments"), adjust).await.expect(201);
    let entries = operator.get(&format!("{org}/entries")).await.expect(200);
    let month = entries["items"][0]["created_at"].as_str().unwrap()[..7].to_owned();
    for (query, marked) in [("format=csv&bom=true", true), ("format=csv", false)] {
        for path in [format!("{org}/statements/{month}?{query}"), format!("{org}/usage?{query}")] {
            let call = gateway.client.get(gateway.admin_url(&path)).bearer_auth(&operator.token);
            let bytes = call.send().await.unwrap().bytes().await.unwrap();
            assert_eq!(bytes.starts_with(b"\xef\xbb\xbf"), marked, "{path}");
            let table = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(!table.contains(";=cmd"), "{table}");
            assert_eq!(table.contains("x;'=cmd|' /C calc'!A0;Gün"), path.contains("statements"), "{table}");
        }
    }
}

#[tokio::test]
async fn a_management_call_names_one_host() {
    let gateway = TestGateway::start().await;
    let address = gateway.admin_url("").strip_prefix("http://").unwrap().parse().unwrap();
    for (hosts, status) in [("", 400), ("host: a\r\nhost: b\r\n", 400), ("host: a\r\n", 401)] {
        let mut client = RawClient::connect(address).await;
        client.write(format!("GET /admin/v1/me HTTP/1.1\r\n{hosts}\r\n").as_bytes()).await;
        assert_eq!(client.read_any().await.status, status, "{hosts:?}");
    }
}
