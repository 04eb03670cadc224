//! Operators and their tokens.

use http::Method;
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{alert_of, body, done, instant, next_page, passed_on, refused};
use crate::clock::Clock;
use crate::console::answers::Page;
use crate::console::client::Problem;
use crate::console::frame::html;
use crate::console::shell::Shell;
use crate::console::table::Cell;
use crate::console::trouble::Trouble;
use crate::console::view::{Alert, Badge, Id, Name};
use crate::console::visit::{Fields, Outcome, Visit};
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
    alert: Option<Alert>,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Shown {
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
    Ok(html(&list(&visit, &Fields::default(), None).await?))
}

async fn list(visit: &Visit, fields: &Fields, problem: Option<&Problem>) -> Result<TokensPage, Trouble> {
    let place = format!("/admin/v1/operator-tokens?limit=50{}", passed_on(&visit.query(), &["cursor"]));
    let (shell, found) = tokio::join!(visit.operator("Operators"), visit.client.look::<Page<Token>>(&place));
    let (found, zone, now) = (found?, Zone::named("UTC"), Clock.wall());
    Ok(TokensPage {
        tokens: found.items.into_iter().map(|token| TokenLine::new(token, &zone, now)).collect(),
        next: next_page(visit, "/operators", found.next_cursor),
        alert: problem.map(alert_of),
        name: fields.text("name"),
        shell,
    })
}

/// Creates a token and shows it, once, on a page that is not stored.
pub(super) async fn create(mut visit: Visit) -> Outcome {
    let fields = visit.form().await?;
    let name = fields.need("name")?.to_owned();
    let role = if fields.get("role") == Some("operator") { "operator" } else { "operator_read" };
    let body = body(&[
        ("name", json!(name)),
        ("role", json!(role)),
        ("expires_at", json!(instant(&fields, "expires")?)),
    ]);
    let made =
        visit.client.manage(Method::POST, "/admin/v1/operator-tokens").body(body).whole::<Shown>().await;
    match made {
        Ok(Shown { token_id, token }) => Ok(html(&ShownPage {
            shell: visit.operator("Operators").await,
            name: Name(name),
            id: Id(token_id),
            text: token,
            base_url: visit.public_url(),
        })),
        Err(problem) if problem.status == http::StatusCode::FORBIDDEN => Err(problem.into()),
        Err(problem) => Ok(refused(html(&list(&visit, &fields, Some(&problem)).await?), &problem)),
    }
}

pub(super) async fn revoke(visit: Visit) -> Outcome {
    let place = format!("/admin/v1/operator-tokens/{}", visit.param("token"));
    match super::change(&visit, Method::DELETE, &place, None, None).await {
        Ok(()) => Ok(done(&visit, "/operators", "token_revoked")),
        Err(problem) if problem.status == http::StatusCode::FORBIDDEN => Err(problem.into()),
        Err(problem) => Ok(refused(html(&list(&visit, &Fields::default(), Some(&problem)).await?), &problem)),
    }
}
