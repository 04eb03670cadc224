//! `tollgate doctor`: everything that would go wrong, at once, and nothing bought or changed.

use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use time::{Duration, OffsetDateTime};
use tollgate::encryption::StoredSecrets;
use tollgate::secret::Secret;
use tollgate::store::ProviderSpec;

use crate::support::database::TestDatabase;
use crate::support::gateway::{MASTER_KEY, TestGateway, closed_port};
use crate::support::identity_provider::{AUDIENCE, Endpoint, ISSUER, Mood, Signer};
use crate::support::openid::{Manner, OpenId};
use crate::support::otlp::Collector;
use crate::support::process::{Said, Scratch, run, run_with_env};

/// The variable that says where traces go.
const TRACES: &str = "TOLLGATE_TELEMETRY__OTLP_ENDPOINT";

fn config(database: &str, vendor: &str, more: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[database]\nurl = \"{database}\"\n\
         [upstream.kling_3]\nbase_url = \"{vendor}\"\nmaster_key = \"{MASTER_KEY}\"\n{more}"
    )
}

/// The findings of one level, as `area: what. remedy`.
fn findings(said: &Said, level: &str) -> Vec<String> {
    let told: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{said:?}"));
    let found = told["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == level);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    found
        .map(|finding| {
            format!("{}: {}. {}", text(&finding["area"]), text(&finding["what"]), text(&finding["remedy"]))
        })
        .collect()
}

#[tokio::test]
async fn a_healthy_installation_is_called_that_and_nothing_is_bought() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let vendor = format!("http://{}", gateway.simulator());
    let file = scratch.file("gateway.toml", &config(gateway.db.url(), &vendor, ""));
    let collector = Collector::grpc().await;
    let traces = format!("http://{}", collector.address);
    let said = run_with_env(&["doctor", "--config", &file], &[(TRACES, &traces)]).await;
    assert_eq!(said.code, 0, "{said:?}");
    for part in
        ["ok       database: ", "ok       vendor: ", "ok       configuration: ", "ok       trace collector: "]
    {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    let said = run(&["doctor", "--json", "--config", &file]).await;
    assert_eq!(said.json()["healthy"], true);
    assert!(!said.out.contains(MASTER_KEY) && findings(&said, "error").is_empty(), "{said:?}");
    assert_eq!(gateway.upstream_creates().await, (0, 0), "nothing is bought");
    assert_eq!(collector.spans().len(), 0, "nothing is traced");
    // The vendor refuses another key.
    let wrong = config(gateway.db.url(), &vendor, "").replace(MASTER_KEY, "another-key");
    let said = run(&["doctor", "--json", "--config", &scratch.file("wrong.toml", &wrong)]).await;
    let errors = findings(&said, "error");
    assert!(said.code == 1 && errors.len() == 1 && errors[0].contains("refused the master key"), "{said:?}");
}

#[tokio::test]
async fn everything_that_is_wrong_is_told_at_once() {
    let db = TestDatabase::new().await;
    sqlx::query("delete from _sqlx_migrations where version = 15").execute(db.pool()).await.unwrap();
    let before: i64 =
        sqlx::query_scalar("select count(*) from _sqlx_migrations").fetch_one(db.pool()).await.unwrap();
    let scratch = Scratch::new();
    let vendor = format!("http://{}", closed_port().await);
    let more = "[[upstream.kling_o3.accounts]]\nname = \"o\"\nmaster_key = \"k\"\n[upstream.kling_o3]\n";
    let more = format!("{more}base_url = \"http://{}\"\n", closed_port().await);
    let text = config(db.url(), &vendor, &more).replacen("127.0.0.1:0", "192.0.2.1:8080", 1);
    let text = text.replace("[admin]", "max_connections = 100000\n[admin]");
    let file = scratch.file("gateway.toml", &text);
    let nobody = format!("http://{}", closed_port().await);
    let said = run_with_env(&["doctor", "--json", "--config", &file], &[(TRACES, &nobody)]).await;
    assert_eq!(said.code, 1, "{said:?}");
    let errors = findings(&said, "error").join("\n");
    for part in [
        "schema: the database lacks migration 15",
        "tollgate migrate",
        "listeners: server.listen is 192.0.2.1:8080",
        "vendor: kling-3.0, account main",
        "vendor: kling-o3, account o",
    ] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    let warnings = findings(&said, "warning").join("\n");
    assert!(warnings.contains("trace collector: http://127.0.0.1:"), "{warnings}");
    let after: i64 =
        sqlx::query_scalar("select count(*) from _sqlx_migrations").fetch_one(db.pool()).await.unwrap();
    assert_eq!(before, after, "nothing is changed");
    sqlx::query("update _sqlx_migrations set success = false where false").execute(db.pool()).await.unwrap();

    // A configuration that cannot be used is a finding for each of its problems.
    let text = text.replace("192.0.2.1:8080", ":8080").replace(&vendor, "ftp://x");
    let said = run(&["doctor", "--json", "--config", &scratch.file("bad.toml", &text)]).await;
    let errors = findings(&said, "error");
    assert!(said.code == 1 && errors.len() == 2, "{errors:#?}");
    assert!(errors.iter().all(|error| error.starts_with("configuration: ")), "{errors:#?}");
}

#[tokio::test]
async fn it_tells_whether_people_can_sign_in_by_their_providers() {
    let gateway = TestGateway::start().await;
    let (good, bad) = (OpenId::start().await, OpenId::start().await);
    bad.set("openid-configuration", Manner::Answer(200, "<html>".into()));
    for (openid, name) in [(&good, "good"), (&bad, "bad")] {
        let spec = openid.spec(name, gateway.caller.org);
        gateway.db.database().create_provider(&spec).await.unwrap();
    }
    let (scratch, vendor) = (Scratch::new(), format!("http://{}", gateway.simulator()));
    let console = "[console]\npublic_url = \"https://videos.example.com/a/\"\n";
    let file = scratch.file("console.toml", &config(gateway.db.url(), &vendor, console));
    let said = run(&["doctor", "--json", "--config", &file]).await;
    let (well, warnings) = (findings(&said, "ok"), findings(&said, "warning"));
    let redirect = "the redirect URI https://videos.example.com/a/console/sign-in/return";
    assert!(well.iter().any(|one| one.starts_with("sign-in: good") && one.contains(redirect)), "{said:?}");
    let of_bad =
        warnings.iter().find(|one| one.contains("console by bad")).unwrap_or_else(|| panic!("{said:?}"));
    assert!(of_bad.contains("cannot be read") && of_bad.contains(&bad.issuer), "{of_bad}");
    // Their secrets are in clear, until the gateways have one of their own.
    let in_clear = "can read the client secret of";
    assert_eq!(warnings.iter().filter(|one| one.contains(in_clear)).count(), 2, "{said:?}");
    let secrets = StoredSecrets::under(Some(&Secret::new("s".repeat(32))), None);
    gateway.db.database().encrypt_client_secrets(&secrets).await.unwrap();
    for (secret, readable) in [("s", true), ("t", false)] {
        let text = format!("{console}[quotes]\nsecret = \"{}\"\n", secret.repeat(32));
        let file = scratch.file("secret.toml", &config(gateway.db.url(), &vendor, &text));
        let said = run(&["doctor", "--json", "--config", &file]).await;
        let told = |level: &str, words: &str| findings(&said, level).iter().any(|one| one.contains(words));
        assert_eq!(
            told("warning", "encrypted under another secret than quotes.secret"),
            !readable,
            "{said:?}"
        );
        assert_eq!(told("ok", "good says where people sign in"), readable, "{said:?}");
        assert!(!told("warning", in_clear), "{said:?}");
    }
    let file = scratch.file("none.toml", &config(gateway.db.url(), &vendor, ""));
    let said = run(&["doctor", "--json", "--config", &file]).await;
    let warnings = findings(&said, "warning");
    assert_eq!(warnings.iter().filter(|one| one.contains("public_url is not set")).count(), 2, "{said:?}");
}

/// A web server that has nothing of the vendor's, behind a `base_url` that is nearly right.
#[tokio::test]
async fn an_address_that_is_not_the_vendors_is_told() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    for (mood, level, words) in [
        (
            Mood::Status(404),
            "error",
            "HTTP 404 Not Found, and not in the form of the vendor's API. Set base_url",
        ),
        (
            Mood::Status(405),
            "error",
            "HTTP 405 Method Not Allowed, and not in the form of the vendor's API. Set base_url",
        ),
        (Mood::Text("<html>welcome</html>".into()), "warning", "HTTP 200 OK. Make sure that"),
    ] {
        let web = Endpoint::start(mood).await;
        let vendor = web.url().join("/").unwrap();
        let file = scratch.file("gateway.toml", &config(gateway.db.url(), vendor.as_str(), ""));
        let said = run(&["doctor", "--json", "--config", &file]).await;
        let found = findings(&said, level).join("\n");
        assert!(
            found.contains("vendor: kling-3.0, account main") && found.contains(words),
            "{words}: {said:?}"
        );
        assert!(!said.out.contains("only a create proves"), "{said:?}");
    }
}

#[tokio::test]
async fn certificates_that_end_are_told() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let vendor = format!("http://{}", gateway.simulator());
    for (days, level, words) in [
        (100, "ok", "server.tls: the certificate is valid for 100 more days"),
        (5, "warning", "ends in 5 days. Put a new certificate"),
        (-1, "error", "has ended. Put a new certificate"),
    ] {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days) + Duration::hours(12);
        let key = KeyPair::generate().unwrap();
        let certificate = scratch.file("tls.crt", &params.self_signed(&key).unwrap().pem());
        let key = scratch.file("tls.key", &key.serialize_pem());
        let tls = format!("[server.tls]\ncertificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n");
        let file = scratch.file("gateway.toml", &config(gateway.db.url(), &vendor, &tls));
        let said = run(&["doctor", "--json", "--config", &file]).await;
        let found = findings(&said, level).join("\n");
        assert!(found.contains("certificates: server.tls") && found.contains(words), "{words}: {said:?}");
    }
}

#[tokio::test]
async fn identity_providers_whose_keys_cannot_be_fetched_are_told() {
    let gateway = TestGateway::start().await;
    let scratch = Scratch::new();
    let vendor = format!("http://{}", gateway.simulator());
    let file = scratch.file("gateway.toml", &config(gateway.db.url(), &vendor, ""));
    let endpoint = Endpoint::start(Mood::Serve(vec![Signer::p256().jwk("k1")])).await;
    let spec = ProviderSpec::new("corp", Some(gateway.caller.org), ISSUER, AUDIENCE, endpoint.url());
    gateway.db.database().create_provider(&spec).await.unwrap();
    let said = run(&["doctor", "--json", "--config", &file]).await;
    let found = findings(&said, "ok").join("\n");
    assert!(found.contains("identity providers: the keys of corp can be fetched"), "{said:?}");
    for mood in [Mood::Status(404), Mood::Text("<html>".into())] {
        endpoint.set(mood);
        let said = run(&["doctor", "--json", "--config", &file]).await;
        let found = findings(&said, "warning").join("\n");
        assert!(
            found.contains("identity providers: corp: the identity provider's keys cannot be fetched"),
            "{said:?}"
        );
        assert!(found.contains("its users are refused until then"), "{said:?}");
    }
}

/// The clock of the database is made wrong, as no test may do that to the machine's.
#[tokio::test]
async fn a_clock_that_is_wrong_is_told() {
    let db = TestDatabase::new().await;
    let scratch = Scratch::new();
    let vendor = format!("http://{}", closed_port().await);
    let file = scratch.file("gateway.toml", &config(db.url(), &vendor, ""));
    let clock = async || {
        let said = run(&["doctor", "--json", "--config", &file]).await;
        let warnings = findings(&said, "warning");
        assert!(findings(&said, "ok").iter().any(|one| one.starts_with("database: ")), "{said:?}");
        warnings.into_iter().find(|warning| warning.starts_with("clock: "))
    };
    assert_eq!(clock().await, None);
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(db.pool()).await.unwrap();
    for (wrong, seconds) in
        [("+ interval '10 minutes'", 600), ("- interval '40 seconds'", 40), ("+ interval '5 seconds'", 0)]
    {
        let change = format!(
            "create or replace function clock_timestamp() returns timestamptz language sql as \
             $$select pg_catalog.clock_timestamp() {wrong}$$; \
             alter database \"{name}\" set search_path = public, pg_catalog"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(db.pool()).await.unwrap();
        match (clock().await, seconds) {
            (None, 0) => {}
            (Some(told), _) => {
                assert!(seconds > 0 && told.contains(" seconds apart") && told.contains("(NTP)"), "{told}");
                let apart =
                    [seconds - 1, seconds, seconds + 1].map(|seconds| format!(" {seconds} seconds apart"));
                assert!(apart.iter().any(|apart| told.contains(apart)), "{told}");
            }
            (None, _) => panic!("{wrong}: nothing is told"),
        }
    }
    let back = format!("alter database \"{name}\" reset search_path; drop function public.clock_timestamp()");
    sqlx::raw_sql(sqlx::AssertSqlSafe(back)).execute(db.pool()).await.unwrap();
}
