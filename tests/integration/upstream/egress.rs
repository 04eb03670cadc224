//! The way to the vendor, to identity providers and to the database inside a company: its own authority, its proxy.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use reqwest::Method;
use serde_json::json;
use tollgate::config::Config;
use tollgate::https::{Authorities, CallError, Client, ClientSettings, HttpVersion, Trust};
use tollgate::secret::Secret;
use url::Url;

use crate::support::company::{Authority, Proxy, TlsFront};
use crate::support::database::{TestDatabase, until};
use crate::support::gateway::{Answer, MASTER_KEY, TestGateway, body, closed_port, stub_upstream};
use crate::support::identity_provider::TestProvider;
use crate::support::process::{Process, Scratch, run};
use crate::support::watched::{Vendor, Watched, key};

fn at(front: &TlsFront) -> Url {
    format!("https://localhost:{}", front.address.port()).parse().unwrap()
}

async fn credits(gateway: &TestGateway, token: &str) -> Answer {
    Answer::to(gateway.request(Method::GET, "/api/credits").bearer_auth(token)).await
}

/// A gateway whose vendor is behind a front, and who takes tokens of a provider behind another.
async fn company(
    authority: &Authority,
    tune: impl FnOnce(&mut Config) + Send + 'static,
) -> (TestGateway, TestProvider, [TlsFront; 2]) {
    let vendor = TlsFront::start(authority, &["localhost", "vendor.test"]).await;
    let id = TlsFront::start(authority, &["localhost", "id.test"]).await;
    let base_url = at(&vendor);
    let gateway = TestGateway::builder()
        .config(move |config| {
            config.upstream.kling_3.base_url = base_url;
            config.limits.failed_logins_per_minute = 0;
            config.auth.jwks_refresh_ms = 1_000;
            tune(config);
        })
        .start()
        .await;
    let provider = TestProvider::start().await;
    vendor.lead_to(gateway.simulator());
    id.lead_to(provider.endpoint.url().socket_addrs(|| None).unwrap()[0]);
    (gateway, provider, [vendor, id])
}

#[tokio::test]
async fn an_authority_that_is_not_known_is_refused_and_said_so() {
    let authority = Authority::new();
    let (gateway, provider, [vendor, id]) = company(&authority, |_| {}).await;
    gateway.create(&body("x")).await.refused(503, "UPSTREAM_UNAVAILABLE");
    let hold = gateway.last_hold().await;
    assert_eq!(hold.state, "RELEASED");
    assert_eq!(hold.reason.as_deref(), Some("the upstream's certificate is not trusted"));
    let mut spec = provider.spec("id", Some(gateway.caller.org));
    spec.jwks_url = at(&id).join("jwks.json").unwrap();
    gateway.db.database().create_provider(&spec).await.unwrap();
    let token = provider.token("ada", json!({}));
    until("the provider is known", async || credits(&gateway, &token).await.status == 503).await;
    assert_eq!(provider.endpoint.asked(), 0);

    let said = |trust: Trust| {
        let second = Duration::from_secs(10);
        let settings = ClientSettings {
            trust,
            proxy: None,
            version: HttpVersion::Http1,
            connect_timeout: second,
            idle_timeout: Duration::ZERO,
        };
        let request = Request::get(at(&vendor).as_str()).body(Bytes::new()).unwrap();
        async move { Client::new(&settings, second, 1 << 20).unwrap().call(request).await }
    };
    let refused = said(Trust::Machine(None)).await;
    assert!(
        matches!(&refused, Err(CallError::NotReached(why)) if why.contains("tls.extra_ca_file")),
        "{refused:?}"
    );
    let known = Authorities::read(&authority.file()).unwrap();
    said(Trust::Machine(Some(known))).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_is_named_is_trusted_by_all_that_the_gateway_calls() {
    let authority = Authority::new();
    let file = authority.file();
    let (gateway, provider, [_vendor, id]) =
        company(&authority, move |config| config.tls.extra_ca_file = Some(file)).await;
    let task = gateway.create(&body("x")).await.task_id();
    gateway.finished(&task).await;
    let mut spec = provider.spec("id", Some(gateway.caller.org));
    spec.jwks_url = at(&id).join("jwks.json").unwrap();
    gateway.db.database().create_provider(&spec).await.unwrap();
    let token = provider.token("ada", json!({}));
    until("the provider is known", async || credits(&gateway, &token).await.status == 200).await;
}

#[tokio::test]
async fn the_variables_of_the_machine_name_authorities_too() {
    let authority = Authority::new();
    let gateway = TestGateway::start().await;
    let front = TlsFront::start(&authority, &["localhost"]).await;
    front.lead_to(gateway.simulator());
    let scratch = Scratch::new();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{}\"\n\
         [upstream.kling_3]\nbase_url = \"{}\"\nmaster_key = \"{MASTER_KEY}\"\n",
        gateway.db.url(),
        at(&front)
    );
    let config = scratch.file("gateway.toml", &config);
    let create = async |process: &mut Process| {
        let serving = process.next_event("serving").await;
        let url = format!("{}/api/generate", serving["data"].as_str().unwrap());
        let call = gateway.client.post(url).bearer_auth(&gateway.caller.text);
        Answer::to(call.body(body("by a process").to_string())).await
    };
    let file = authority.file();
    let file = file.to_str().unwrap();
    let mut process = Process::with_env(&["serve", "--config", &config], &[("SSL_CERT_FILE", file)]);
    create(&mut process).await.expect(200);
    process.terminate();
    assert_eq!(process.ended().await, 0);
    let mut process = Process::start(&["serve", "--config", &config]);
    create(&mut process).await.refused(503, "UPSTREAM_UNAVAILABLE");
    let event = process.next_event("the upstream cannot be reached").await;
    let why = event["why"].as_str().unwrap();
    assert!(why.contains("UnknownIssuer") && why.contains("tls.extra_ca_file"), "{event}");
    assert_eq!(event["server"], "localhost");
    process.terminate();
    assert_eq!(process.ended().await, 0);
    // An empty variable names nothing.
    let empty = [("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "")];
    let mut process = Process::with_env(&["serve", "--config", &config], &empty);
    process.next_event("serving").await;
    process.terminate();
    assert_eq!(process.ended().await, 0);
    let mut process = Process::with_env(&["serve", "--config", &config], &[("SSL_CERT_FILE", "/nowhere")]);
    let said = process.rest_of_log();
    assert_ne!(process.ended().await, 0);
    let said = said.await.unwrap();
    assert!(said.contains("SSL_CERT_FILE"), "{said}");
}

#[tokio::test]
async fn a_database_behind_a_companys_authority_is_verified_by_it() {
    let db = TestDatabase::new().await;
    let authority = Authority::new();
    let front = TlsFront::start(&authority, &["localhost"]).await;
    front.lead_to_database(db.url());
    let mut url: Url = db.url().parse().unwrap();
    url.set_host(Some("localhost")).unwrap();
    url.set_port(Some(front.address.port())).unwrap();
    url.set_query(Some("sslmode=verify-full"));
    let scratch = Scratch::new();
    let config = |url: &Url, more: &str| {
        let text = format!(
            "[database]\nurl = \"{url}\"\n[upstream.kling_3]\nbase_url = \"http://x\"\nmaster_key = \"k\"\n{more}"
        );
        scratch.file("gateway.toml", &text)
    };
    let file = authority.file();
    let refused = run(&["audit", "--config", &config(&url, "")]).await;
    assert!(refused.code != 0 && refused.err.contains("tls.extra_ca_file"), "{refused:?}");
    let extra = format!("[tls]\nextra_ca_file = {file:?}\n");
    let said = run(&["audit", "--config", &config(&url, &extra)]).await;
    assert_eq!(said.code, 0, "{said:?}");
    url.query_pairs_mut().append_pair("sslrootcert", file.to_str().unwrap());
    let said = run(&["audit", "--config", &config(&url, "")]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

/// `gateway:s3cret` in base64.
const AUTHORIZATION: &str = "Basic Z2F0ZXdheTpzM2NyZXQ=";

#[tokio::test]
async fn a_proxy_is_on_the_way_to_the_vendor_and_to_identity_providers() {
    let authority = Authority::new();
    let vendor = TlsFront::start(&authority, &["vendor.test"]).await;
    let id = TlsFront::start(&authority, &["id.test"]).await;
    let hosts = [("vendor.test:443", vendor.address), ("id.test:8443", id.address)];
    let proxy = Proxy::start(AUTHORIZATION, &hosts).await;
    let (file, address) = (authority.file(), proxy.address);
    let gateway = TestGateway::builder()
        .config(move |config| {
            config.tls.extra_ca_file = Some(file);
            config.upstream.kling_3.base_url = "https://vendor.test".parse().unwrap();
            config.upstream.proxy_url = Some(format!("http://{address}").parse().unwrap());
            config.upstream.proxy_credentials = Some(Secret::new("gateway:s3cret"));
            config.limits.failed_logins_per_minute = 0;
            config.auth.jwks_refresh_ms = 1_000;
        })
        .start()
        .await;
    let provider = TestProvider::start().await;
    vendor.lead_to(gateway.simulator());
    id.lead_to(provider.endpoint.url().socket_addrs(|| None).unwrap()[0]);
    let task = gateway.create(&body("x")).await.task_id();
    gateway.finished(&task).await;
    // One on this machine is not asked for through the proxy.
    let spec = provider.spec("id", Some(gateway.caller.org));
    let made = gateway.db.database().create_provider(&spec).await.unwrap();
    let token = provider.token("ada", json!({}));
    until("the provider is known", async || credits(&gateway, &token).await.status == 200).await;
    assert!(proxy.opened().iter().all(|server| server == "vendor.test:443"), "{:?}", proxy.opened());
    let elsewhere: Url = "https://id.test:8443/jwks.json".parse().unwrap();
    gateway.db.database().edit_provider(made, None, |spec| spec.jwks_url = elsewhere.clone()).await.unwrap();
    until("it is asked for there", async || {
        let status = credits(&gateway, &token).await.status;
        status == 200 && proxy.opened().iter().any(|server| server == "id.test:8443")
    })
    .await;
    assert!(provider.endpoint.asked() >= 2);
}

#[tokio::test]
async fn why_the_vendor_is_not_reached_is_on_the_hold() {
    let proxy = Proxy::start(AUTHORIZATION, &[]).await;
    let (address, closed) = (proxy.address, closed_port().await);
    let (plain, _) = stub_upstream(b"this is no TLS").await;
    type Tune = Box<dyn FnOnce(&mut Config) + Send>;
    let through = |credentials: &'static str| -> Tune {
        Box::new(move |config| {
            config.upstream.kling_3.base_url = "https://vendor.test".parse().unwrap();
            config.upstream.proxy_url = Some(format!("http://{address}").parse().unwrap());
            config.upstream.proxy_credentials = Some(Secret::new(credentials));
        })
    };
    let directly = |url: String| -> Tune {
        Box::new(move |config| config.upstream.kling_3.base_url = url.parse().unwrap())
    };
    for (tune, reason) in [
        (through("gateway:wrong"), "the proxy opened no tunnel to the upstream"),
        (through("gateway:s3cret"), "the proxy opened no tunnel to the upstream"),
        (directly(format!("http://{closed}")), "the upstream refused the connection"),
        (directly(format!("https://{plain}")), "the TLS handshake with the upstream failed"),
        (directly("http://nowhere.invalid".into()), "the upstream's name has no address"),
    ] {
        let gateway = TestGateway::builder().config(tune).start().await;
        gateway.create(&body("x")).await.refused(503, "UPSTREAM_UNAVAILABLE");
        let hold = gateway.last_hold().await;
        assert_eq!((hold.state.as_str(), hold.reason.as_deref()), ("RELEASED", Some(reason)));
    }
    assert_eq!(proxy.opened(), Vec::<String>::new());
}

#[tokio::test]
async fn an_endpoint_that_does_not_exist_is_the_operators_alarm() {
    let (db, vendor) = (TestDatabase::new().await, Vendor::start(10).await);
    let (_, _, key) = key(&db, "a customer", 10_000).await;
    let gateway = Watched::start(&db, vendor.address, "").await;
    let alarms = r#"tollgate_upstream_alarms_total{backend="kling-3.0",kind="no such endpoint"}"#;
    assert_eq!(gateway.scrape().await.value(alarms), 0.0);
    let faults = [404, 405, 410].map(|status| {
        json!({"on": "create", "match": {"prompt_contains": format!("{status}")},
        "fault": {"kind": "http_error", "status": status, "error": "NOT_FOUND", "message": "Not found"}})
    });
    vendor.script(json!({"rules": faults})).await;
    for status in [404, 405, 410] {
        gateway.create(&key, &body(&status.to_string())).await.refused(502, "UPSTREAM_ERROR");
    }
    assert_eq!(gateway.scrape().await.value(alarms), 3.0);
    // The account is not at fault: the next create goes to it.
    let task = gateway.create(&key, &body("fine")).await.task_id();
    until("it has ended", async || gateway.status(&key, &task).await.data()["status"] == "SUCCESS").await;
    let log = gateway.stop().await;
    let told = log.lines().filter(|line| line.contains("\"ERROR\"") && line.contains("base_url"));
    assert_eq!(told.count(), 3, "{log}");
    assert!(log.contains("/api/generate"), "{log}");
}
