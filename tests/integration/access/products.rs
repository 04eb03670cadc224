//! Tokens with the shapes of the products that people have, under the settings that `docs/identity-providers.md` recommends.

use reqwest::Method;
use serde_json::{Value, json};
use tollgate::store::{GivenRole, ProviderSpec};

use crate::support::database::until;
use crate::support::gateway::{Answer, TestGateway};
use crate::support::identity_provider::{Endpoint, Mood, Signer, now};

/// A product: its header, its claims besides the times, what its key set has, and the settings.
struct Product {
    name: &'static str,
    header: Value,
    claims: Value,
    /// Fields that a key of its set has besides the usual ones; null takes one away.
    jwk: Value,
    issuer: &'static str,
    audience: &'static str,
    tune: fn(&mut ProviderSpec),
    /// What becomes of it.
    user: &'static str,
    role: &'static str,
    team: Option<&'static str>,
}

fn roles(spec: &mut ProviderSpec, claim: &str, admins: &str) {
    spec.role_claim = Some(claim.into());
    spec.role_map = [(admins.to_owned(), GivenRole::Admin)].into();
}

/// Two hundred groups, the most that Entra ID puts into a token.
fn groups() -> Vec<String> {
    let mut groups: Vec<String> = (0..199).map(|n| format!("{n:08x}-aaaa-4bbb-8ccc-{n:012x}")).collect();
    groups.push("2b8f4c0e-51a7-4f3e-9d1c-7e6a5b4c3d2e".into());
    groups
}

fn products() -> Vec<Product> {
    vec![
        Product {
            name: "Keycloak",
            header: json!({"alg": "RS256", "typ": "JWT"}),
            claims: json!({
                "jti": "onrtac:6a1d5f1c-2b3e-4d5f-8a9b-0c1d2e3f4a5b", "iss": "https://sso.example.com/realms/studio",
                "aud": ["tollgate", "account"], "sub": "f81d4fae-7dec-41d0-a765-00a0c91e6bf6", "typ": "Bearer",
                "azp": "render", "sid": "0c5a2f2e", "acr": "1", "allowed-origins": ["/*"],
                "realm_access": {"roles": ["offline_access", "default-roles-studio", "tollgate-admin"]},
                "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
                "scope": "openid email profile", "email_verified": true, "name": "Ada L", "team": "film",
                "preferred_username": "ada", "email": "ada@example.com",
            }),
            jwk: json!({"alg": "RS256", "x5t": "x", "x5t#S256": "y", "x5c": ["MIIC"]}),
            issuer: "https://sso.example.com/realms/studio",
            audience: "tollgate",
            tune: |spec| {
                roles(spec, "realm_access.roles", "tollgate-admin");
                spec.team_claim = Some("team".into());
            },
            user: "f81d4fae-7dec-41d0-a765-00a0c91e6bf6",
            role: "admin",
            team: Some("film"),
        },
        Product {
            name: "Keycloak, roles of a client",
            header: json!({"alg": "EdDSA", "typ": "JWT"}),
            claims: json!({
                "iss": "https://sso.example.com/realms/studio", "aud": "tollgate",
                "sub": "0e3c8b2a-1111-4222-8333-444455556666", "typ": "Bearer", "azp": "render",
                "resource_access": {"tollgate": {"roles": ["admin"]}}, "scope": "email profile",
            }),
            jwk: json!({"alg": "EdDSA"}),
            issuer: "https://sso.example.com/realms/studio",
            audience: "tollgate",
            tune: |spec| roles(spec, "resource_access.tollgate.roles", "admin"),
            user: "0e3c8b2a-1111-4222-8333-444455556666",
            role: "admin",
            team: None,
        },
        Product {
            name: "Entra ID, v2.0, with groups",
            header: json!({"typ": "JWT", "alg": "RS256"}),
            claims: json!({
                "aud": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
                "iss": "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
                "aio": "AXQAi/8IAAAAtAaZLo3ChMif6KOnttRB7eBq4", "azp": "6e74172b-be56-4843-9ff4-e66a39bb12e3",
                "azpacr": "0", "groups": groups(), "name": "Abe Lincoln",
                "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474", "preferred_username": "abeli@example.com",
                "rh": "I", "roles": ["Video.Admin"], "scp": "access_as_user",
                "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ", "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47",
                "uti": "fqiBqXLPj0eQa82S-IYFAA", "ver": "2.0",
            }),
            jwk: json!({"use": "sig", "x5t": "x", "x5c": ["MIIC"], "issuer": "https://login.microsoftonline.com/"}),
            issuer: "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
            audience: "6e74172b-be56-4843-9ff4-e66a39bb12e3",
            tune: |spec| {
                spec.user_claim = "oid".into();
                roles(spec, "groups", "2b8f4c0e-51a7-4f3e-9d1c-7e6a5b4c3d2e");
            },
            user: "690222be-ff1a-4d56-abd1-7e4f7d38e474",
            role: "admin",
            team: None,
        },
        Product {
            name: "Entra ID, v1.0, with an app role",
            header: json!({"typ": "JWT", "alg": "RS256", "x5t": "nOo3ZDrODXEK1jKWhXslHR_KXEg"}),
            claims: json!({
                "aud": "api://tollgate", "iss": "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
                "acr": "1", "appid": "6e74172b-be56-4843-9ff4-e66a39bb12e3", "appidacr": "0", "idp": "live.com",
                "oid": "11111111-ff1a-4d56-abd1-7e4f7d38e474", "roles": ["Video.Admin"], "scp": "Video.Run Video.Read",
                "sub": "l3_roISQU222bULS9yi2k0XpqpOiMz5H3ZACo1GeXA", "unique_name": "abeli@example.com", "ver": "1.0",
            }),
            jwk: json!({"x5c": ["MIIC"]}),
            issuer: "https://sts.windows.net/72f988bf-86f1-41af-91ab-2d7cd011db47/",
            audience: "api://tollgate",
            tune: |spec| {
                spec.user_claim = "oid".into();
                roles(spec, "roles", "Video.Admin");
            },
            user: "11111111-ff1a-4d56-abd1-7e4f7d38e474",
            role: "admin",
            team: None,
        },
        Product {
            name: "Auth0",
            header: json!({"alg": "RS256", "typ": "JWT"}),
            claims: json!({
                "https://example.com/roles": ["video-admin"], "iss": "https://studio.eu.auth0.com/",
                "sub": "auth0|6553da60a54af58e29493993",
                "aud": ["https://tollgate.example.com", "https://studio.eu.auth0.com/userinfo"],
                "scope": "openid profile read:videos", "azp": "K1AUPhZq8mRi0Q0pjhkfu1D7y6KjDQja",
                "permissions": ["run:videos"],
            }),
            jwk: json!({"alg": "RS256", "x5t": "x", "x5c": ["MIIC"]}),
            issuer: "https://studio.eu.auth0.com/",
            audience: "https://tollgate.example.com",
            tune: |spec| roles(spec, "https://example.com/roles", "video-admin"),
            user: "auth0|6553da60a54af58e29493993",
            role: "admin",
            team: None,
        },
        Product {
            name: "Auth0, RFC 9068 profile, a machine with a scope",
            header: json!({"alg": "RS256", "typ": "at+jwt"}),
            claims: json!({
                "iss": "https://studio.eu.auth0.com/", "sub": "awZfdIir8YFdGZWkvCejDoUb7SjTDicx@clients",
                "aud": "https://tollgate.example.com", "jti": "73WakrfVbNJBaAmhQtEeDv",
                "client_id": "awZfdIir8YFdGZWkvCejDoUb7SjTDicx", "scope": "run:videos admin:videos",
            }),
            jwk: json!({"alg": "RS256"}),
            issuer: "https://studio.eu.auth0.com/",
            audience: "https://tollgate.example.com",
            tune: |spec| roles(spec, "scope", "admin:videos"),
            user: "awZfdIir8YFdGZWkvCejDoUb7SjTDicx@clients",
            role: "admin",
            team: None,
        },
        Product {
            name: "Okta",
            // No type.
            header: json!({"alg": "RS256"}),
            claims: json!({
                "ver": 1, "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
                "iss": "https://studio.okta.com/oauth2/default", "aud": "api://default", "cid": "nmdP1fcyvdVO11AL7ECm",
                "uid": "00uid4BxXw6I6TV4m0g3", "scp": ["openid", "profile"], "auth_time": now() - 60,
                "sub": "ada@example.com", "groups": ["Everyone", "Video Admins"],
            }),
            jwk: json!({"alg": "RS256"}),
            issuer: "https://studio.okta.com/oauth2/default",
            audience: "api://default",
            tune: |spec| {
                spec.user_claim = "uid".into();
                roles(spec, "groups", "Video Admins");
            },
            user: "00uid4BxXw6I6TV4m0g3",
            role: "admin",
            team: None,
        },
        Product {
            name: "Google",
            header: json!({"alg": "RS256", "typ": "JWT"}),
            claims: json!({
                "iss": "https://accounts.google.com", "azp": "1234987819200.apps.googleusercontent.com",
                "aud": "1234987819200.apps.googleusercontent.com", "sub": "110169484474386276334",
                "at_hash": "HK6E_P6Dh8Y93mRNtsDB1Q", "hd": "a customer", "email": "ada@example.com",
                "email_verified": true, "name": "Ada L", "picture": format!("https://lh3.example/{}", "a".repeat(300)),
            }),
            jwk: json!({"alg": "RS256"}),
            issuer: "https://accounts.google.com",
            audience: "1234987819200.apps.googleusercontent.com",
            tune: |spec| spec.org_claim = Some("hd".into()),
            user: "110169484474386276334",
            role: "member",
            team: None,
        },
        Product {
            name: "GitLab, a job",
            header: json!({"alg": "RS256", "typ": "JWT"}),
            claims: json!({
                "namespace_id": "72", "namespace_path": "studio", "project_id": "20", "project_path": "studio/trailer",
                "user_id": "1", "user_login": "ada", "user_email": "ada@example.com", "user_access_level": "owner",
                "pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "feature", "ref_type": "branch",
                "ref_path": "refs/heads/feature", "ref_protected": "false", "runner_id": 1,
                "runner_environment": "self-hosted", "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
                "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b", "iss": "https://gitlab.com", "nbf": now() - 5,
                "sub": format!("project_path:studio/trailer:ref_type:branch:ref:{}", "a-long-branch/".repeat(20)),
                "aud": "https://tollgate.example.com",
            }),
            jwk: json!({"alg": "RS256"}),
            issuer: "https://gitlab.com",
            audience: "https://tollgate.example.com",
            tune: |spec| spec.user_claim = "project_id".into(),
            user: "20",
            role: "member",
            team: None,
        },
        Product {
            name: "GitLab, a person",
            header: json!({"typ": "JWT", "alg": "RS256"}),
            claims: json!({
                "iss": "https://gitlab.com", "sub": "4711", "sub_legacy": "0f1e", "auth_time": now() - 60,
                "aud": "2f6b1c0e", "name": "Ada L", "nickname": "ada", "preferred_username": "ada",
                "groups_direct": ["studio"], "https://gitlab.org/claims/groups/owner": ["studio/film"],
            }),
            jwk: json!({"alg": "RS256"}),
            issuer: "https://gitlab.com",
            audience: "2f6b1c0e",
            tune: |spec| roles(spec, "https://gitlab.org/claims/groups/owner", "studio/film"),
            user: "4711",
            role: "admin",
            team: None,
        },
    ]
}

#[tokio::test]
async fn the_tokens_of_common_products_are_taken_with_the_recommended_settings() {
    let gateway =
        TestGateway::builder().config(|config| config.limits.failed_logins_per_minute = 0).start().await;
    let db = gateway.db.database();
    db.create_team(gateway.caller.org, "film").await.unwrap();
    for product in products() {
        let Product { name, mut header, mut claims, jwk: more, issuer, audience, tune, .. } = product;
        // Each has ids of its own: what is remembered of the one before must not be taken for it.
        let kid = format!("key of {name}");
        let signer = if header["alg"] == "EdDSA" { Signer::ed25519() } else { Signer::rsa() };
        let mut jwk = signer.jwk(&kid);
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        // A set has keys for other things too, under the same id.
        let mut encryption = Signer::rsa().jwk(&kid);
        encryption["use"] = json!("enc");
        encryption["alg"] = json!("RSA-OAEP");
        let endpoint = Endpoint::start(Mood::Serve(vec![encryption, Signer::p256().jwk(&kid), jwk])).await;
        let mut spec = ProviderSpec::new(name, Some(gateway.caller.org), issuer, audience, endpoint.url());
        spec.create_users = true;
        tune(&mut spec);
        let made = db.create_provider(&spec).await.unwrap();
        header["kid"] = json!(kid);
        claims["iat"] = json!(now() - 5);
        claims["exp"] = json!(now() + 600);
        let token = signer.token_of(&header, &claims);
        let mut last = None;
        until(name, async || {
            let call = gateway.request(Method::GET, "/api/credits").bearer_auth(&token);
            let answer = Answer::to(call).await;
            let taken = answer.status == 200;
            last = Some(answer);
            taken
                || last.as_ref().is_some_and(|answer| {
                    answer.status == 401 && !answer.text.contains("no identity provider is configured")
                })
        })
        .await;
        last.unwrap().expect(200);
        let found: (String, String, Option<String>) = sqlx::query_as(
            "select i.subject, u.role, t.name from user_identity i join app_user u using (user_id) \
             left join team t using (team_id) where i.provider_id = $1",
        )
        .bind(made.as_uuid())
        .fetch_one(gateway.db.pool())
        .await
        .unwrap();
        let team = product.team.map(ToOwned::to_owned);
        assert_eq!(found, (product.user.to_owned(), product.role.to_owned(), team), "{name}");
        db.delete_provider(made, None).await.unwrap();
    }
}
