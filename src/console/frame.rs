//! What holds for every answer of a console: its headers, its log event, and the answer to a page that panics.

use std::any::Any;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use http::{HeaderName, HeaderValue, StatusCode};
use tower_http::csrf::ProtectionError;

use super::Console;
use super::cookies::Theme;
use super::trouble::Trouble;
use crate::clock::Clock;
use crate::strict;
use crate::telemetry::TraceContext;

/// The content policy of every page: nothing is loaded from other hosts but videos from the configured ones.
pub(super) fn policy(media_hosts: &[String]) -> HeaderValue {
    let hosts: String = media_hosts.iter().map(|host| format!(" {host}")).collect();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'{hosts}; \
         connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// Gives every request its id and its log event, and every answer its headers.
pub(super) async fn frame(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let id = format!("req_{}", uuid::Uuid::now_v7().simple());
    let (head, body) = request.into_parts();
    let host = strict::check_host(&head);
    let method = head.method.clone();
    let theme = Theme::of(&head.headers);
    // The path itself is not logged: it may hold anything.
    let route = head.extensions.get::<MatchedPath>().cloned();
    let begun = Clock.now();
    let answering = async {
        let answer = match host {
            Ok(()) => next.run(Request::from_parts(head, body)).await,
            Err(bad) => Trouble::bad_request(bad.to_string()).into_response(),
        };
        // Only here is it known what a page of this console looks like.
        let mut answer = match answer.extensions().get::<Trouble>().cloned() {
            Some(trouble) => trouble.page(&console, theme, answer),
            None => answer,
        };
        let headers = answer.headers_mut();
        headers.insert(CONTENT_SECURITY_POLICY, console.policy.clone());
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        for (name, value) in [
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-store"));
        let ms = (Clock.since(begun).as_secs_f64() * 1e6).round() / 1e3;
        let route = route.as_ref().map_or("none", MatchedPath::as_str);
        tracing::info!(%method, route, status = answer.status().as_u16(), ms, "console page");
        answer
    };
    let mut answer = TraceContext::of_untraced(&id).around(answering).await;
    if let Ok(value) = HeaderValue::try_from(id) {
        answer.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    answer
}

/// The answer for paths without a page.
pub(super) async fn nothing_here() -> Trouble {
    Trouble::not_found("There is no page at this address.")
}

/// The answer to a form that another site has sent.
pub(super) fn forged(_: ProtectionError) -> Response<Body> {
    Trouble::forbidden(
        "This form was not sent by a page of this console. If a proxy stands before the gateway, console.public_url must name \
         the address that browsers see.",
    )
    .into_response()
}

/// The answer to a page that panics.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response<Body> {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no message"), "a page of the console panicked");
    Trouble::internal().into_response()
}

/// The answer that shows a page.
pub(super) fn html(page: &impl askama::Template) -> Response {
    match page.render() {
        Ok(text) => axum::response::Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page of the console cannot be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
