//! Clients behind proxies: whose word on an address is taken, and what hangs on it.

use reqwest::Method;
use tollgate::config::ProxyHeader;
use tollgate::store::KeySpec;

use crate::support::gateway::{Answer, Caller, TestGateway};

async fn from(gateway: &TestGateway, token: &str, headers: &[(&str, &str)]) -> Answer {
    let mut call = gateway.request(Method::GET, "/api/credits").bearer_auth(token);
    for (name, value) in headers {
        call = call.header(*name, *value);
    }
    Answer::to(call).await
}

async fn key_of_a_network(gateway: &TestGateway) -> Caller {
    let allowed_networks = Some(vec!["192.0.2.0/24".parse().unwrap()]);
    gateway.another_key(KeySpec { allowed_networks, ..KeySpec::default() }).await
}

/// The tests themselves are the proxy.
async fn behind_a_proxy(header: ProxyHeader) -> TestGateway {
    let start = TestGateway::builder().config(move |config| {
        config.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        config.server.proxy_header = header;
        config.limits.failed_logins_per_minute = 2;
    });
    start.start().await
}

#[tokio::test]
async fn a_trusted_proxy_tells_the_address_and_a_client_cannot() {
    let gateway = behind_a_proxy(ProxyHeader::XForwardedFor).await;
    let key = key_of_a_network(&gateway).await.text;
    let with = async |value: &str| from(&gateway, &key, &[("x-forwarded-for", value)]).await.status;
    assert_eq!(with("192.0.2.7").await, 200);
    assert_eq!(with("192.0.2.7, 10.1.2.3").await, 200, "a second proxy of ours");
    assert_eq!(with("203.0.113.9").await, 403);
    // The client wrote the left part itself; the proxy has added where that came from.
    assert_eq!(with("192.0.2.7, 203.0.113.9").await, 403);
    assert_eq!(with("192.0.2.7, unknown").await, 403);
    from(&gateway, &key, &[("forwarded", "for=192.0.2.7")]).await.refused(403, "NETWORK_NOT_ALLOWED");
    let both = [("forwarded", "for=192.0.2.7"), ("x-forwarded-for", "203.0.113.9")];
    from(&gateway, &key, &both).await.expect(403);
    // Twice the same header: the proxy's line is the last.
    let lines = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "203.0.113.9")];
    from(&gateway, &key, &lines).await.expect(403);
    from(&gateway, &key, &[]).await.expect(403);
}

#[tokio::test]
async fn the_standard_header_counts_where_it_is_configured() {
    let gateway = behind_a_proxy(ProxyHeader::Forwarded).await;
    let key = key_of_a_network(&gateway).await.text;
    from(&gateway, &key, &[("forwarded", "for=\"192.0.2.7:4711\";proto=https")]).await.expect(200);
    from(&gateway, &key, &[("forwarded", "for=192.0.2.7, for=203.0.113.9")]).await.expect(403);
    from(&gateway, &key, &[("x-forwarded-for", "192.0.2.7")]).await.expect(403);
}

#[tokio::test]
async fn failed_attempts_are_counted_for_the_client_and_not_for_its_proxy() {
    let gateway = behind_a_proxy(ProxyHeader::XForwardedFor).await;
    let wrong = async |address: &str| from(&gateway, "wrong", &[("x-forwarded-for", address)]).await.status;
    for (address, expected) in [
        ("192.0.2.1", 401),
        ("192.0.2.1", 401),
        ("192.0.2.1", 429),
        ("192.0.2.2", 401),
        // Another address in front does not make it another client.
        ("198.51.100.1, 192.0.2.1", 429),
        ("198.51.100.2, 192.0.2.1", 429),
    ] {
        assert_eq!(wrong(address).await, expected, "{address}");
    }
}
