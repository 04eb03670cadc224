//! Calls that move money: a retry with the same `Idempotency-Key` gets the first answer and moves nothing.

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::Parameter;

use super::extract::{Input, Query, header, parse};
use super::problem::Problem;
use crate::store::{Done, Once};
use crate::strict;

/// A JSON body with the caller's idempotency key.
pub(super) struct Idempotent<T> {
    key: Option<String>,
    raw: Bytes,
    pub(super) body: T,
}

impl<T> Idempotent<T> {
    /// What makes the call count once; none: the caller sent no key.
    pub(super) fn once(&self) -> Option<Once<'_>> {
        self.key.as_deref().map(|key| Once { key, body: &self.raw })
    }
}

impl<T: DeserializeOwned + Send> Input for Idempotent<T> {
    const HAS_BODY: bool = true;

    fn describe(parameters: &mut Vec<RefOr<Parameter>>) {
        let description = "Repeating a request with the same key and the same body within 72 hours changes nothing: it \
                           gets the first answer again.";
        parameters.push(header("Idempotency-Key", description, "^[!-~]+$", 255));
    }

    fn read(parts: &Parts, body: &Bytes) -> Result<Self, Problem> {
        Ok(Self { key: key(parts)?, body: parse(parts, body)?, raw: body.clone() })
    }
}

/// A query with the caller's idempotency key, for a call without a body.
pub(super) struct IdempotentQuery<T> {
    key: Option<String>,
    raw: String,
    pub(super) query: T,
}

impl<T> IdempotentQuery<T> {
    /// What makes the call count once; none: the caller sent no key.
    pub(super) fn once(&self) -> Option<Once<'_>> {
        self.key.as_deref().map(|key| Once { key, body: self.raw.as_bytes() })
    }
}

impl<T: DeserializeOwned + IntoParams + Send> Input for IdempotentQuery<T> {
    fn describe(parameters: &mut Vec<RefOr<Parameter>>) {
        Query::<T>::describe(parameters);
        let description = "Repeating a request with the same key and the same query within 72 hours changes nothing: it \
                           gets the first answer again.";
        parameters.push(header("Idempotency-Key", description, "^[!-~]+$", 255));
    }

    fn read(parts: &Parts, body: &Bytes) -> Result<Self, Problem> {
        let Query(query) = Query::read(parts, body)?;
        Ok(Self { key: key(parts)?, raw: parts.uri.query().unwrap_or_default().to_owned(), query })
    }
}

/// The caller's idempotency key.
fn key(parts: &Parts) -> Result<Option<String>, Problem> {
    let key = strict::single_header(&parts.headers, "Idempotency-Key")?.map(|value| {
        let text = value.to_str().unwrap_or_default();
        let usable = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        let refused = "Idempotency-Key must be 1 to 255 visible ASCII characters";
        usable.then(|| text.to_owned()).ok_or_else(|| Problem::Invalid(refused.into()))
    });
    key.transpose()
}

/// The answer to a call that moves money; a replayed answer is marked with `Idempotent-Replayed: true`.
pub(super) struct Answered<T>(pub(super) StatusCode, pub(super) Done<T>);

impl<T: Serialize> IntoResponse for Answered<T> {
    fn into_response(self) -> Response {
        marked((self.0, Json(self.1.answer)).into_response(), self.1.replayed)
    }
}

/// Like [`Answered`], for a call whose answer has no body.
pub(super) struct AnsweredEmpty<T>(pub(super) Done<T>);

impl<T> IntoResponse for AnsweredEmpty<T> {
    fn into_response(self) -> Response {
        marked(StatusCode::NO_CONTENT.into_response(), self.0.replayed)
    }
}

fn marked(mut answer: Response, replayed: bool) -> Response {
    if replayed {
        let name = HeaderName::from_static("idempotent-replayed");
        answer.headers_mut().insert(name, HeaderValue::from_static("true"));
    }
    answer
}
