//! Signing in by a key, a token or a link, signing out, and the choice of the theme.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{RETRY_AFTER, SET_COOKIE};
use http::request::Parts;
use http_body_util::{BodyExt, Limited};

use crate::access::callers::Caller;
use crate::access::sessions::{SessionText, SignInProvider, SignedIn};
use crate::call::{Party, Peer};
use crate::console::client::Problem;
use crate::console::cookies::Theme;
use crate::console::frame::html;
use crate::console::shell::Bare;
use crate::console::trouble::{Trouble, redirect};
use crate::console::view::{Alert, Name};
use crate::console::visit::{Fields, address, cookie};
use crate::console::{Audience, Console};
use crate::error::GatewayError;
use crate::layers::body::BadBody;
use crate::rate_limits::Manager;

/// The largest form of these pages, in bytes.
const MOST_FORM: usize = 8 << 10;

#[derive(askama::Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    bare: Bare,
    operators: bool,
    /// Where to go afterwards.
    back: String,
    alert: Option<Alert>,
    /// The link that is to be used, instead of a key.
    link: Option<String>,
    /// The identity providers by which one may sign in as well.
    providers: Vec<ProviderLink>,
}

struct ProviderLink {
    id: String,
    name: Name,
}

/// How many providers the page lists. People of others sign in by the address of theirs.
const MOST_PROVIDERS: usize = 20;

async fn provider_links(console: &Console, head: &Parts) -> Vec<ProviderLink> {
    // A provider sends people back to the address that is configured, and nowhere else.
    if console.parts.audience != Audience::Members || console.parts.settings.public_url.is_none() {
        return Vec::new();
    }
    let all = console.parts.authenticator.sign_in_providers(address(console, head)).await;
    let some = all.into_iter().take(MOST_PROVIDERS);
    some.map(|SignInProvider { id, name }| ProviderLink { id: id.to_string(), name: Name(name) }).collect()
}

/// The form that takes a key or a token.
pub(in crate::console) async fn show(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    match Fields::parse(head.uri.query().unwrap_or_default().as_bytes()) {
        Ok(query) => form(&console, &head, &query.text("back"), None, None).await,
        Err(trouble) => trouble.into_response(),
    }
}

/// The page to sign in at, with what was refused.
pub(super) async fn form(
    console: &Console,
    head: &Parts,
    back: &str,
    refused: Option<&Problem>,
    link: Option<String>,
) -> Response {
    let page = SignInPage {
        bare: Bare::new(console, Theme::of(&head.headers), "Sign in"),
        operators: console.parts.audience == Audience::Operators,
        back: own_place(back),
        alert: refused.map(Alert::of),
        providers: if link.is_some() { Vec::new() } else { provider_links(console, head).await },
        link,
    };
    let mut answer = html(&page);
    if let Some(problem) = refused {
        *answer.status_mut() = problem.status;
        if let Some(seconds) = problem.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
    }
    answer
}

/// A place of this console; nothing that a visitor may be sent to elsewhere.
pub(super) fn own_place(place: &str) -> String {
    let plain = place.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let ours = place == "/console" || place.starts_with("/console/") || place.starts_with("/console?");
    if ours && plain && !place.starts_with("/console/sign-") {
        place.to_owned()
    } else {
        "/console".to_owned()
    }
}

async fn read_form(console: &Console, body: Body) -> Result<Fields, Trouble> {
    let reading = tokio::time::timeout(console.parts.bodies.timeout, Limited::new(body, MOST_FORM).collect());
    let read = reading.await.map_err(|_| GatewayError::from(BadBody::TooSlow))?;
    let read = read.map_err(|_| GatewayError::from(BadBody::TooLarge))?;
    Fields::parse(&read.to_bytes())
}

/// Exchanges a key or a token for a session.
pub(in crate::console) async fn sign_in(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let fields = match read_form(&console, body).await {
        Ok(fields) => fields,
        Err(trouble) => return trouble.into_response(),
    };
    let back = fields.text("back");
    let Some(credential) = fields.get("credential").map(str::trim) else {
        let empty = Problem::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", "paste a key into the field");
        return form(&console, &head, &back, Some(&empty), None).await;
    };
    let admit = |caller: &Caller| admit(&console, caller);
    let opened = console.parts.authenticator.sign_in_with(credential, address(&console, &head), admit).await;
    match opened.and_then(|opened| fits(&console, opened)) {
        Ok(entered) => enter(&console, &head, entered, &back).await,
        Err(error) => form(&console, &head, &back, Some(&told(&console, &error)), None).await,
    }
}

/// Counts a sign-in, whatever it is by, as a call of the management API: it writes, as such a call may. A link was counted when it
/// was made, and opens one session.
pub(super) fn admit(console: &Console, caller: &Caller) -> Result<(), GatewayError> {
    let admitted = console.parts.limits.admit_management(Manager::of(caller));
    admitted.map(drop).map_err(|refused| GatewayError::RateLimited {
        level: refused.level,
        retry_after: refused.retry_after,
    })
}

/// What is told of a refusal; that of the API speaks of headers.
fn told(console: &Console, error: &GatewayError) -> Problem {
    let mut problem = Problem::of(error);
    if problem.status == StatusCode::UNAUTHORIZED {
        let what = match console.parts.audience {
            Audience::Members => "key",
            Audience::Operators => "operator token",
        };
        let said = error.to_string();
        if said.contains("Authorization") {
            problem.message = format!(
                "This is not a valid {what}: check that all of it was pasted, and that it was not revoked."
            );
        }
    }
    problem
}

/// Refuses a caller that this console is not for.
fn fits(
    console: &Console,
    (session, signed_in): (SessionText, SignedIn),
) -> Result<(SessionText, Party), GatewayError> {
    match (console.parts.audience, signed_in.caller()) {
        (Audience::Members, Caller::Tenant(_)) | (Audience::Operators, Caller::Operator(_)) => {
            Ok((session, signed_in.caller().party()))
        }
        (Audience::Members, Caller::Operator(_)) => Err(GatewayError::Forbidden(
            "this is an operator token: operators sign in at the console of the operations listener",
        )),
        (Audience::Operators, Caller::Tenant(_)) => Err(GatewayError::Forbidden(
            "this is an API key of an organisation: its users sign in at the console of the data listener",
        )),
    }
}

pub(super) async fn enter(
    console: &Console,
    head: &Parts,
    (session, party): (SessionText, Party),
    back: &str,
) -> Response {
    // Without room the connection stays a stranger's. The session is there, so its text is told.
    let _ = Peer::of(&head.extensions).is_known(party).await;
    let mut answer = redirect(&format!("{}{}", console.base(), own_place(back)));
    if let Some(kept) = cookie(console, &head.headers).keep(&session) {
        answer.headers_mut().insert(SET_COOKIE, kept);
    }
    answer
}

/// The page of a link: a button uses the link, so that a program that looks at links in advance does not.
pub(in crate::console) async fn show_link(
    State(console): State<Arc<Console>>,
    Path(link): Path<String>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    form(&console, &head, "", None, Some(link)).await
}

/// Exchanges a link for a session.
pub(in crate::console) async fn use_link(
    State(console): State<Arc<Console>>,
    Path(link): Path<String>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let opened = match SessionText::parse(&link) {
        Some(link) => console.parts.authenticator.sign_in_by_link(&link, address(&console, &head)).await,
        None => {
            Err(GatewayError::Unauthenticated("this link is not complete: open it as it was given to you"))
        }
    };
    match opened.and_then(|opened| fits(&console, opened)) {
        Ok(entered) => enter(&console, &head, entered, "").await,
        Err(error) => form(&console, &head, "", Some(&Problem::of(&error)), None).await,
    }
}

/// Ends the session, in the database and in the browser.
pub(in crate::console) async fn sign_out(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let cookie = cookie(&console, &head.headers);
    if let Some(session) = cookie.read(&head.headers)
        && let Err(error) = console.parts.authenticator.sign_out(&session, address(&console, &head)).await
    {
        // A browser that has forgotten its session could not end it any more.
        return Trouble::from(error).into_response();
    }
    let mut answer = redirect(&format!("{}/console/sign-in", console.base()));
    if let Some(forgotten) = cookie.forget() {
        answer.headers_mut().insert(SET_COOKIE, forgotten);
    }
    answer
}

/// Remembers whether pages are light or dark.
pub(in crate::console) async fn set_theme(State(console): State<Arc<Console>>, request: Request) -> Response {
    let (_, body) = request.into_parts();
    let fields = match read_form(&console, body).await {
        Ok(fields) => fields,
        Err(trouble) => return trouble.into_response(),
    };
    let theme = Theme::of_text(fields.get("theme").unwrap_or_default());
    let mut answer = redirect(&format!("{}{}", console.base(), own_place(&fields.text("back"))));
    if let Some(kept) = theme.cookie() {
        answer.headers_mut().insert(SET_COOKIE, kept);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        for place in
            ["https://evil.example", "//evil.example", "/console\\evil", "/consolevil", "/console/ x", ""]
        {
            assert_eq!(own_place(place), "/console", "{place}");
        }
        for place in ["/console/sign-in", "/console/sign-in/return?code=x", "/console/sign-in/with/idp_1"] {
            assert_eq!(own_place(place), "/console", "{place}: nobody goes round in circles");
        }
        assert_eq!(own_place("/console/clips?status=SUCCESS"), "/console/clips?status=SUCCESS");
    }
}
