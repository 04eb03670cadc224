//! Identity providers, whose tokens are accepted in place of keys.

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, done, next_page};
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::{Cell, Facts};
use crate::console::trouble::Trouble;
use crate::console::view::{Badge, Id, Name};
use crate::console::visit::{Fields, Outcome, Visit};

#[derive(Debug, Deserialize)]
struct Provider {
    provider_id: String,
    name: String,
    serves: String,
    org_id: Option<String>,
    issuer: String,
    audiences: Vec<String>,
    jwks_url: String,
    algorithms: Vec<String>,
    leeway_seconds: i64,
    user_claim: String,
    org_claim: Option<String>,
    team_claim: Option<String>,
    role_claim: Option<String>,
    create_users: bool,
    suspended: bool,
    console_client_id: Option<String>,
    console_has_secret: bool,
    console_scopes: Vec<String>,
    version: i32,
}

struct ProviderCard {
    provider_id: String,
    id: Id,
    name: Name,
    badge: Badge,
    suspended: bool,
    version: i32,
    facts: Facts,
    /// Whether people may sign in by it: it is of organisations.
    for_people: bool,
    client_id: String,
    scopes: String,
}

#[derive(askama::Template)]
#[template(path = "operators/providers.html")]
struct ProvidersPage {
    shell: Shell,
    providers: Vec<ProviderCard>,
    next: Option<String>,
}

impl ProviderCard {
    fn new(provider: Provider, visit: &Visit) -> Self {
        let whose = match (&provider.org_id, provider.serves.as_str()) {
            (Some(org), _) => {
                Cell::fine("users of").and(&Cell::id_link(org, &visit.link(&format!("/orgs/{org}"))))
            }
            (None, "operators") => Cell::text("operators"),
            (None, _) => Cell::text("users of the organisation that a claim names"),
        };
        let claim = |claim: &Option<String>| claim.as_ref().map_or_else(|| Cell::fine("none"), Cell::code);
        let facts = Facts(vec![
            ("For", whose),
            ("Issuer", Cell::code(&provider.issuer)),
            ("Audiences", Cell::code(provider.audiences.join(", "))),
            ("Keys", Cell::code(&provider.jwks_url)),
            ("Algorithms", Cell::text(provider.algorithms.join(", "))),
            ("Clock tolerance", Cell::number(provider.leeway_seconds).and(&Cell::fine("s"))),
            ("Claim of the user", Cell::code(&provider.user_claim)),
            ("Claim of the organisation", claim(&provider.org_claim)),
            ("Claim of the team", claim(&provider.team_claim)),
            ("Claim of the role", claim(&provider.role_claim)),
            (
                "Unknown subjects",
                Cell::text(if provider.create_users { "become users" } else { "are refused" }),
            ),
            ("Sign-in at the console", sign_in_of(&provider)),
        ]);
        let badge =
            if provider.suspended { Badge::new("warn", "Suspended") } else { Badge::new("good", "Active") };
        Self {
            for_people: provider.serves == "organisations",
            client_id: provider.console_client_id.unwrap_or_default(),
            scopes: provider.console_scopes.join(" "),
            id: Id(provider.provider_id.clone()),
            provider_id: provider.provider_id,
            name: Name(provider.name),
            badge,
            suspended: provider.suspended,
            version: provider.version,
            facts,
        }
    }
}

/// The client by which the console signs people in.
fn sign_in_of(provider: &Provider) -> Cell {
    match &provider.console_client_id {
        None => Cell::fine("none"),
        Some(client) => Cell::code(client).and(&Cell::fine(if provider.console_has_secret {
            "with a secret"
        } else {
            "without a secret"
        })),
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/identity-providers?limit=20{}", visit.query().passed_on(&["cursor"]));
    let (shell, found) =
        tokio::join!(visit.operator("Identity providers"), visit.client.look::<Page<Provider>>(&place));
    let found = found?;
    let page = ProvidersPage {
        providers: found.items.into_iter().map(|provider| ProviderCard::new(provider, &visit)).collect(),
        next: next_page(&visit, "/providers", found.next_cursor),
        shell,
    };
    Ok(html(&page))
}

pub(super) async fn create(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let audiences: Vec<&str> =
        fields.need("audiences")?.split([',', ' ']).map(str::trim).filter(|one| !one.is_empty()).collect();
    let body = body(&[
        ("name", json!(fields.need("name")?)),
        ("serves", json!(fields.get("serves"))),
        ("org_id", json!(fields.get("org").map(str::trim))),
        ("issuer", json!(fields.need("issuer")?.trim())),
        ("audiences", json!(audiences)),
        ("jwks_url", json!(fields.need("jwks_url")?.trim())),
        ("user_claim", json!(fields.get("user_claim"))),
        ("org_claim", json!(fields.get("org_claim"))),
        ("role_claim", json!(fields.get("role_claim"))),
        ("create_users", json!(fields.is_set("create_users"))),
    ]);
    visit.client.manage(Method::POST, "/admin/v1/identity-providers").body(body).send().await?;
    Ok(done(&visit, "/providers", "created"))
}

/// What the console is to sign people in with. An empty secret is none that was given: the one that is there stays.
fn client_of(fields: &Fields) -> Value {
    let mut patch = json!({"console_client_id": fields.get("client_id").map(str::trim)});
    if let Some(secret) = fields.get("client_secret") {
        patch["console_client_secret"] = json!(secret.trim());
    }
    if let Some(scopes) = fields.get("scopes") {
        patch["console_scopes"] = json!(scopes.split_whitespace().collect::<Vec<_>>());
    }
    patch
}

/// Suspends a provider, takes it up again, deletes it, or sets what the console signs people in with.
pub(super) async fn change(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let place = format!("/admin/v1/identity-providers/{}", visit.param("provider"));
    let version = fields.get("version");
    let (method, body, word) = match fields.need("do")? {
        "suspend" => (Method::PATCH, json!({"suspended": true}), "saved"),
        "resume" => (Method::PATCH, json!({"suspended": false}), "saved"),
        "sign_in" => (Method::PATCH, client_of(&fields), "saved"),
        "delete" => (Method::DELETE, Value::Null, "deleted"),
        _ => {
            return Err(Trouble::bad_request(
                "The field 'do' is none of suspend, resume, sign_in and delete.",
            ));
        }
    };
    let body = (!body.is_null()).then(|| body.to_string());
    super::change(&visit, method, &place, version, body).await?;
    Ok(done(&visit, "/providers", word))
}
