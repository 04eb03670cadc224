//! Calls that move money: a retry with the same `Idempotency-Key` gets the first answer and moves nothing.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::request::{IdempotencyKey, bytes, parse};
use crate::store::{Done, Once};

/// A JSON body with the caller's idempotency key.
pub(super) struct OnceBody<T> {
    key: Option<String>,
    raw: Bytes,
    /// The body.
    pub(super) body: T,
}

impl<T> OnceBody<T> {
    /// What makes it count once; none: the caller said no key.
    pub(super) fn once(&self) -> Option<Once<'_>> {
        self.key.as_deref().map(|key| Once { key, body: &self.raw })
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OnceBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let IdempotencyKey(key) = IdempotencyKey::from_request_parts(&mut parts, state).await?;
        let request = Request::from_parts(parts, body);
        let raw = bytes(request, state).await?;
        Ok(Self { key, body: parse(&raw)?, raw })
    }
}

/// What was made or done, and whether an earlier call had done it.
pub(super) struct Made<T>(pub(super) StatusCode, pub(super) Done<T>);

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let mut answer = (self.0, Json(self.1.answer)).into_response();
        if self.1.replayed {
            let name = HeaderName::from_static("idempotent-replayed");
            answer.headers_mut().insert(name, HeaderValue::from_static("true"));
        }
        answer
    }
}
