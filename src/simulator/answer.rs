//! Answers in the vendor's envelope.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::script::{Canned, FaultPlan};
use super::wire::WireBody;

#[derive(Serialize)]
struct SuccessBody<T> {
    code: u16,
    message: &'static str,
    data: T,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    code: u16,
    error: &'a str,
    message: &'a str,
}

pub(super) fn success(data: impl Serialize) -> Response<WireBody> {
    json(StatusCode::OK, &SuccessBody { code: 200, message: "success", data })
}

/// `{"code":…,"error":…,"message":…}`, with the code as HTTP status too.
pub(super) fn failure(status: StatusCode, error: &str, message: &str) -> Response<WireBody> {
    json(status, &FailureBody { code: status.as_u16(), error, message })
}

/// Bare JSON, as the simulator's own pages answer.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response<WireBody> {
    // None of our types can fail to serialise; an empty body would at least be noticed.
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    bare(status, "application/json", bytes.into())
}

pub(super) fn bare(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<WireBody> {
    let mut response = Response::new(WireBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn invalid_key() -> Response<WireBody> {
    failure(StatusCode::UNAUTHORIZED, "INVALID_API_KEY", "API key is missing or invalid")
}

pub(super) fn not_found() -> Response<WireBody> {
    failure(StatusCode::NOT_FOUND, "NOT_FOUND", "There is nothing at this address")
}

/// The vendor does not tell a foreign task from one that never was.
pub(super) fn no_such_task() -> Response<WireBody> {
    failure(StatusCode::NOT_FOUND, "TASK_NOT_FOUND", "Task not found")
}

pub(super) fn wrong_method(allowed: &'static str) -> Response<WireBody> {
    let mut response =
        failure(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "This address takes another method");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

pub(super) fn scripted(canned: &Canned) -> Response<WireBody> {
    let mut response = bare(canned.status, canned.content_type, canned.body.clone());
    let headers = response.headers_mut();
    if let Some(location) = &canned.location {
        headers.insert(LOCATION, location.clone());
    }
    if let Some(retry_after) = &canned.retry_after {
        headers.insert(RETRY_AFTER, retry_after.clone());
    }
    response
}

/// Sends an answer as badly as the plan says.
pub(super) fn mistreat(response: Response<WireBody>, plan: &FaultPlan) -> Response<WireBody> {
    response.map(|body| {
        let body = body.padded(plan.padding);
        let body = if plan.truncated { body.truncated() } else { body };
        match plan.drip {
            Some(every) => body.dripping(every),
            None => body,
        }
    })
}
