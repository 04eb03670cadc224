//! Operators and their tokens.

use http::Method;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{body, done, instant, next_page};
use crate::clock::Clock;
use crate::console::answers::Page;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::Cell;
use crate::console::view::{Badge, Id, Name};
use crate::console::visit::{Outcome, Visit};
use crate::console::zone::Zone;

#[derive(Debug, Deserialize)]
struct Token {
    token_id: String,
    name: String,
    role: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    revoked_at: Option<OffsetDateTime>,
}

struct TokenLine {
    token_id: String,
    id: Id,
    name: Name,
    role: &'static str,
    badge: Badge,
    created: Cell,
    expires: Cell,
    is_usable: bool,
}

#[derive(askama::Template)]
#[template(path = "operators/tokens.html")]
struct TokensPage {
    shell: Shell,
    tokens: Vec<TokenLine>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct NewToken {
    token_id: String,
    token: String,
}

#[derive(askama::Template)]
#[template(path = "operators/token_shown.html")]
struct ShownPage {
    shell: Shell,
    name: Name,
    id: Id,
    text: String,
    base_url: String,
}

impl TokenLine {
    fn new(token: Token, zone: &Zone, now: OffsetDateTime) -> Self {
        let expired = token.expires_at.is_some_and(|end| end <= now);
        let badge = match (token.revoked_at, expired) {
            (Some(_), _) => Badge::new("bad", "Revoked"),
            (None, true) => Badge::new("bad", "Expired"),
            (None, false) => Badge::new("good", "Active"),
        };
        Self {
            id: Id(token.token_id.clone()),
            name: Name(token.name),
            role: if token.role == "operator" { "may do everything" } else { "may read everything" },
            badge,
            created: Cell::when(zone, token.created_at),
            expires: Cell::when_or(zone, token.expires_at, "never"),
            is_usable: token.revoked_at.is_none() && !expired,
            token_id: token.token_id,
        }
    }
}

pub(super) async fn show(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/operator-tokens?limit=50{}", visit.query().passed_on(&["cursor"]));
    let (shell, found) = tokio::join!(visit.operator("Operators"), visit.client.look::<Page<Token>>(&place));
    let (found, zone, now) = (found?, Zone::named("UTC"), Clock.wall());
    let page = TokensPage {
        tokens: found.items.into_iter().map(|token| TokenLine::new(token, &zone, now)).collect(),
        next: next_page(&visit, "/operators", found.next_cursor),
        shell,
    };
    Ok(html(&page))
}

/// Creates a token and shows it, once, on a page that is not stored.
pub(super) async fn create(visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let name = fields.need("name")?.to_owned();
    let role = if fields.get("role") == Some("operator") { "operator" } else { "operator_read" };
    let body = body(&[
        ("name", json!(name)),
        ("role", json!(role)),
        ("expires_at", json!(instant(&fields, "expires")?)),
    ]);
    let call = visit.client.manage(Method::POST, "/admin/v1/operator-tokens").body(body);
    let NewToken { token_id, token } = call.whole().await?;
    Ok(html(&ShownPage {
        shell: visit.operator("Operators").await,
        name: Name(name),
        id: Id(token_id),
        text: token,
        base_url: visit.public_url(),
    }))
}

pub(super) async fn revoke(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/operator-tokens/{}", visit.param("token"));
    super::change(&visit, Method::DELETE, &place, None, None).await?;
    Ok(done(&visit, "/operators", "token_revoked"))
}
