//! Where the client secret is, and where it must not be.

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::encryption::{BadSecret, StoredSecrets};
use tollgate::secret::Secret;
use tollgate::store::OperatorRole;

use super::Place;
use crate::support::admin_client::AdminClient;
use crate::support::database::until;
use crate::support::gateway::TestGateway;
use crate::support::openid::{CLIENT_SECRET, basic};

#[tokio::test]
async fn the_secret_of_the_client_is_in_no_answer_and_in_no_line_of_the_audit_log() {
    let gateway = TestGateway::start().await;
    let operator = AdminClient::operator(&gateway, tollgate::store::OperatorRole::Operator).await;
    let path = "/admin/v1/identity-providers";
    let body = json!({
        "name": "a company", "issuer": "https://id.example", "audiences": ["an api"], "org_id": gateway.caller.org,
        "jwks_url": "https://id.example/keys", "console_client_id": "caf\u{e9}", "console_client_secret": CLIENT_SECRET,
    });
    let refused = operator.post(path, body.clone()).await.expect(400);
    assert!(refused["detail"].as_str().unwrap().contains("console_client_id must be"), "{refused}");
    let mut body = body;
    body["console_client_id"] = json!("console");
    let made = operator.post(path, body).await.expect(201);
    assert_eq!((&made["console_has_secret"], &made["console_client_id"]), (&json!(true), &json!("console")));
    let one = format!("{path}/{}", made["provider_id"].as_str().unwrap());
    let mut seen = vec![made.to_string()];
    for (patch, has_secret, client) in [
        (json!({"leeway_seconds": 30}), true, json!("console")),
        (json!({"console_client_secret": format!("{CLIENT_SECRET}-2")}), true, json!("console")),
        (json!({"console_client_id": "another"}), false, json!("another")),
        (json!({"console_client_secret": CLIENT_SECRET}), true, json!("another")),
        (json!({"console_client_secret": null}), false, json!("another")),
        (json!({"console_client_secret": CLIENT_SECRET}), true, json!("another")),
        (json!({"console_client_id": null}), false, Value::Null),
    ] {
        let changed = operator.patch(&one, patch.clone()).await.expect(200);
        assert_eq!(changed["console_has_secret"], has_secret, "{patch}");
        assert_eq!(changed["console_client_id"], client, "{patch}");
        seen.push(changed.to_string());
    }
    for (patch, words) in [
        (json!({"console_client_secret": CLIENT_SECRET}), "needs a console_client_id"),
        (json!({"console_client_id": "x", "issuer": "not a url"}), "needs an issuer"),
        (json!({"console_client_id": "x", "issuer": "http://id.example"}), "needs an issuer"),
        (json!({"console_scopes": ["email"]}), "must have 'openid'"),
        (json!({"console_client_secret": 7}), "a secret must be a string"),
    ] {
        let refused = operator.patch(&one, patch.clone()).await.expect(400);
        assert!(refused.to_string().contains(words), "{patch}: {refused}");
        seen.push(refused.to_string());
    }
    let log = operator.get("/admin/v1/audit-log?limit=100").await.expect(200);
    let lines =
        log["items"].as_array().unwrap().iter().filter(|line| line["target_kind"] == "identity_provider");
    assert_eq!(lines.count(), 8, "a new secret is a change: {log:#}");
    seen.push(log.to_string());
    seen.push(operator.get(path).await.expect(200).to_string());
    assert!(seen.iter().all(|text| !text.contains(CLIENT_SECRET)), "{seen:#?}");
    let staff = json!({
        "name": "staff", "issuer": "https://id.example", "audiences": ["ops"], "serves": "operators",
        "role_claim": "groups", "role_map": {"ops": "operator"}, "jwks_url": "https://id.example/keys",
        "console_client_id": "x",
    });
    let refused = operator.post(path, staff).await.expect(400);
    assert!(refused["detail"].as_str().unwrap().contains("operators sign in"), "{refused}");
}

/// A secret of the gateways, as long as one must be.
fn quote_secret(text: &str) -> Secret {
    Secret::new(text.repeat(32))
}

/// What the database has of the client secret, and with it every backup.
async fn stored(gateway: &TestGateway) -> Option<String> {
    let stored = sqlx::query_scalar("select console_client_secret from identity_provider");
    stored.fetch_one(gateway.db.pool()).await.unwrap()
}

#[tokio::test]
async fn the_secret_of_the_client_is_encrypted_in_the_database_and_people_sign_in_by_it() {
    let place = Place::with(|config| config.quotes.secret = Some(quote_secret("a")), |_| ()).await;
    let operator = AdminClient::operator(&place.gateway, OperatorRole::Operator).await;
    let one = format!("/admin/v1/identity-providers/{}", place.provider);
    operator.patch(&one, json!({"console_client_secret": CLIENT_SECRET})).await.expect(200);
    let text = stored(&place.gateway).await.unwrap();
    assert!(text.starts_with("enc1.") && !text.contains(CLIENT_SECRET), "{text}");
    let gets_in = async |who: &str| {
        until("people begin", async || place.browser().get(&place.start("")).await.status == 303).await;
        place.signed_in(who, json!({})).await;
        let (headers, _) = place.openid.last_exchange();
        assert_eq!(headers["authorization"], basic().as_str());
    };
    gets_in("ida").await;

    // What is not about the secret leaves it as it is; what is refused stores nothing.
    operator.patch(&one, json!({"leeway_seconds": 30})).await.expect(200);
    operator.patch(&one, json!({"console_client_secret": "x".repeat(501)})).await.expect(400);
    assert_eq!(stored(&place.gateway).await.unwrap(), text);

    // One that is stored in clear, and the gateways' secret is replaced.
    let database = place.gateway.db.database();
    place.edit(|spec| spec.console_client_secret = Some(Secret::new(CLIENT_SECRET))).await;
    let [a, b] = [quote_secret("a"), quote_secret("b")];
    let (first, both) = (StoredSecrets::under(Some(&a), None), StoredSecrets::under(Some(&b), Some(&a)));
    assert_eq!(database.encrypt_client_secrets(&first).await.unwrap(), []);
    let under_a = stored(&place.gateway).await.unwrap();
    assert!(under_a.starts_with("enc1.") && under_a != text, "{under_a}");
    gets_in("bob").await;
    assert_eq!(database.encrypt_client_secrets(&both).await.unwrap(), []);
    let under_b = stored(&place.gateway).await.unwrap();
    assert_eq!(both.decrypt(&Secret::new(&*under_b), &place.openid.issuer).unwrap().expose(), CLIENT_SECRET);
    assert_eq!(database.encrypt_client_secrets(&both).await.unwrap(), []);
    assert_eq!(stored(&place.gateway).await.unwrap(), under_b, "nothing is encrypted again");
    let unreadable = database.encrypt_client_secrets(&first).await.unwrap();
    assert_eq!(unreadable, [(place.provider, BadSecret::OtherKey)]);
    assert_eq!(stored(&place.gateway).await.unwrap(), under_b);
    // This gateway has not got the new secret.
    until("that nobody gets in is told", async || {
        let mut browser = place.browser();
        let page = place.sign_in(&mut browser, "ida", json!({})).await;
        page.text.contains("secret for your identity provider cannot be read")
    })
    .await;

    // Another issuer gets no secret that was not meant for it.
    let changed = operator.patch(&one, json!({"issuer": "https://id.example"})).await.expect(200);
    assert_eq!((changed["console_has_secret"].as_bool(), stored(&place.gateway).await), (Some(false), None));
    operator.patch(&one, json!({"console_client_secret": CLIENT_SECRET})).await.expect(200);
    operator.call_with(Method::DELETE, &one, None, &[]).await.expect(204);
    assert_eq!(stored(&place.gateway).await, None);
}
