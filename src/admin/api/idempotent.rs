//! Calls that move money: a retry with the same `Idempotency-Key` gets the first answer and moves nothing.

use axum::Json;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::RefOr;
use utoipa::openapi::path::Parameter;

use super::extract::{Input, header, parse};
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
        let key = strict::single_header(&parts.headers, "Idempotency-Key")?.map(|value| {
            let text = value.to_str().unwrap_or_default();
            let usable = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            let refused = "Idempotency-Key must be 1 to 255 visible ASCII characters";
            usable.then(|| text.to_owned()).ok_or_else(|| Problem::Invalid(refused.into()))
        });
        Ok(Self { key: key.transpose()?, body: parse(parts, body)?, raw: body.clone() })
    }
}

/// The answer to a call that moves money; a replayed answer is marked with `Idempotent-Replayed: true`.
pub(super) struct Answered<T>(pub(super) StatusCode, pub(super) Done<T>);

impl<T: Serialize> IntoResponse for Answered<T> {
    fn into_response(self) -> Response {
        let mut answer = (self.0, Json(self.1.answer)).into_response();
        if self.1.replayed {
            let name = HeaderName::from_static("idempotent-replayed");
            answer.headers_mut().insert(name, HeaderValue::from_static("true"));
        }
        answer
    }
}
