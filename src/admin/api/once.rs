//! Calls that move money: a retry with the same `Idempotency-Key` gets the first answer and moves nothing.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::request::{bytes, parse};
use crate::ledger::{Done, Once};

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
        let wrong = || Problem::Invalid("Idempotency-Key must be 1 to 255 visible ASCII characters".into());
        let mut keys = request.headers().get_all("idempotency-key").iter();
        let key = match (keys.next(), keys.next()) {
            (None, _) => None,
            (Some(_), Some(_)) => {
                return Err(Problem::Invalid("only one Idempotency-Key can be said".into()));
            }
            (Some(key), None) => {
                let key = key.to_str().map_err(|_| wrong())?.to_owned();
                let usable =
                    (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
                Some(usable.then_some(key).ok_or_else(wrong)?)
            }
        };
        let raw = bytes(request, state).await?;
        Ok(Self { key, body: parse(&raw)?, raw })
    }
}

/// What was made, and whether an earlier call had made it.
pub(super) struct Made<T>(pub(super) Done<T>);

impl<T: Serialize> IntoResponse for Made<T> {
    fn into_response(self) -> Response {
        let mut answer = (StatusCode::CREATED, Json(self.0.answer)).into_response();
        if self.0.replayed {
            let name = HeaderName::from_static("idempotent-replayed");
            answer.headers_mut().insert(name, HeaderValue::from_static("true"));
        }
        answer
    }
}
