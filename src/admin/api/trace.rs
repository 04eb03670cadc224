//! The outermost layer of the management listener: request ids, spans, metrics, one log event per call, and an answer to
//! calls that panic.

use std::any::Any;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::clock::Clock;
use crate::metrics as m;
use crate::strict;
use crate::telemetry::{Span, TraceContext, Tracing};

/// Gives each request an id. Calls below `/admin/` also get a span, a log event and metrics; probes, scrapes and the
/// documentation do not.
pub(super) async fn trace(State(tracing): State<Tracing>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let host = strict::check_host(&head);
    let request = Request::from_parts(head, body);
    let id = format!("req_{}", uuid::Uuid::now_v7().simple());
    let method = request.method().clone();
    let managing = request.uri().path().starts_with("/admin/");
    // The path itself is not logged: it may hold anything, an API key pasted by mistake for example.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let begun = Clock.now();
    let context = match managing {
        true => tracing.request(request.headers(), Some(&id)),
        false => TraceContext::of_untraced(&id),
    };
    let call = async {
        let mut span = Span::of_request();
        let named = span.set_method(&method);
        if let Some(route) = &route {
            span.rename(format!("{named} {}", route.as_str()));
            span.set("http.route", route.as_str());
        }
        let answer = match host {
            Ok(()) => next.run(request).await,
            Err(bad) => Problem::Invalid(bad.to_string()).into_response(),
        };
        if managing {
            count(&method, answer.status(), Clock.since(begun));
            let (method, route) = (known(&method), route.as_ref().map_or("none", MatchedPath::as_str));
            tracing::info!(method, route, status = answer.status().as_u16(), "management call");
            span.set_number("http.response.status_code", answer.status().as_u16());
            match answer.status() {
                StatusCode::SERVICE_UNAVAILABLE => span.fail("503"),
                status if status.is_server_error() => span.fail("500"),
                _ => {}
            }
        }
        answer
    };
    let mut answer = context.around(call).await;
    if let Ok(value) = HeaderValue::try_from(id) {
        answer.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
    }
    answer
}

/// The answer to a call whose handler panicked: a 500, with the panic's message in the log.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("no message"), "a management call panicked");
    Problem::Internal.into_response()
}

/// The methods that metrics name. A caller may send any other text as a method: that is counted as `other`.
const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", OTHER];
const OTHER: &str = "other";

fn known(method: &Method) -> &'static str {
    METHODS.into_iter().find(|known| *known == method.as_str()).unwrap_or(OTHER)
}

fn count(method: &Method, status: StatusCode, took: Duration) {
    let method = known(method);
    metrics::counter!(m::ADMIN_REQUESTS, "method" => method, "status" => status.as_u16().to_string())
        .increment(1);
    metrics::histogram!(m::ADMIN_SECONDS, "method" => method).record(took);
}

/// Shows the series of successful calls and of server errors from the start, with the value 0.
pub(super) fn register() {
    for method in METHODS {
        for status in ["200", "500", "503"] {
            metrics::counter!(m::ADMIN_REQUESTS, "method" => method, "status" => status).increment(0);
        }
        drop(metrics::histogram!(m::ADMIN_SECONDS, "method" => method));
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_answered() {
        let defect = get(|| async {
            assert_eq!(1, 2, "a defect");
        });
        let router = Router::new().route("/admin/v1/defect", defect);
        let router = super::super::guarded(router, Tracing::default());
        let request = Request::get("/admin/v1/defect").header("host", "x").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), 500);
        assert!(answer.headers().contains_key("x-request-id"), "it is traced");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
}
