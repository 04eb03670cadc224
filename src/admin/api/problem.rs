//! Errors as problem documents (RFC 9457).
#![deny(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use axum::http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::GatewayError;
use crate::layers::body::BadBody;
use crate::store::StoreError;
use crate::strict::GivenTwice;
use crate::wire::ACCEPTED_CODINGS;

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemDetails {
    /// The kind of problem: `urn:tollgate:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The kind of problem in words.
    title: &'static str,
    /// The HTTP status of the answer.
    status: u16,
    /// What is wrong with this request.
    detail: String,
    /// The kind of problem as a stable word, for programs.
    code: &'static str,
    /// Of `does_not_fit`: both sides that were compared, `hold` and `vendor`, and the names of fields that `matched`, `differed`
    /// or were `not_compared`. Absent otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    data: Option<Value>,
}

/// Why a management call failed. Nothing was changed, except that after `Unavailable` and `Internal` it may have been.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The request is malformed, or asks for something impossible.
    #[error("{0}")]
    Invalid(String),
    /// There are no credentials, or they are not valid.
    #[error("{0}")]
    Unauthenticated(String),
    /// The caller may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// The resource does not exist, or belongs to another organisation.
    #[error("{0}")]
    NotFound(String),
    /// The path does not take this method; it takes the ones named here.
    #[error("this path takes {0}")]
    MethodNotAllowed(String),
    /// The request conflicts with the current state of the resource.
    #[error("{0}")]
    Conflict(String),
    /// What an operator says does not fit what the vendor says, or what the ledger has.
    #[error("{why}")]
    DoesNotFit {
        why: String,
        /// What both sides say, and which fields were compared.
        data: Value,
    },
    /// The vendor cannot be asked, so that what an operator says cannot be checked. Nothing was changed.
    #[error("{0}")]
    VendorUnreachable(String),
    /// The resource was changed since the caller read it.
    #[error(
        "the resource was changed in the meantime: its version is {current} now. Read it again before you change it"
    )]
    Stale {
        /// The version the resource has now.
        current: i32,
    },
    /// The body did not arrive within its time-out.
    #[error("the body did not arrive within ten seconds")]
    TooSlow,
    /// The body is over 1 MiB.
    #[error("the body is larger than 1 MiB")]
    TooLarge,
    /// The body is in a content coding that is not understood.
    #[error(
        "the body is in a content coding that is not understood: send it as it is, or compressed with 'Content-Encoding: gzip'"
    )]
    UnknownCoding,
    /// The idempotency key was used with another body, or for another resource.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// The first request with this idempotency key has not been answered yet.
    #[error("a request with this Idempotency-Key is still in progress: try again to get its answer")]
    InProgress,
    /// Too many wrong credentials from the caller's address.
    #[error("too many failed attempts from this address")]
    TooManyAttempts(Duration),
    /// More calls of the caller's organisation, or of this operator, than its limit allows.
    #[error("too many calls of the management API in a minute: at most {per_minute} of one {level}")]
    TooManyCalls {
        /// Whose calls are limited: an organisation's or an operator's.
        level: &'static str,
        per_minute: u32,
        retry_after: Duration,
    },
    /// The people of the caller's organisation have asked for as many changes today as they may.
    #[error(
        "your organisation may make {most} changes a day (UTC): what revokes or deletes goes on, and an operator can allow more"
    )]
    TooManyChanges { most: i32, retry_after: Duration },
    /// The call found no place at the database in time: nothing was done.
    #[error("too many calls are in progress: nothing was done, try again")]
    Busy,
    /// The database cannot be reached, or did not answer in time.
    #[error(
        "the database cannot be reached right now. A change may or may not have been made: check before you try again"
    )]
    Unavailable,
    /// A defect of the gateway.
    #[error("an internal error")]
    Internal,
}

impl Problem {
    /// Status and description of the errors that any operation may answer.
    pub(super) const ANYWHERE: &[(&str, &str)] = &[
        ("400", "The request is not valid"),
        ("401", "No valid credentials"),
        ("403", "The caller's role may not do this"),
        ("404", "The resource does not exist, or belongs to another organisation"),
        ("408", "The body did not arrive in time"),
        ("409", "The request conflicts with the current state of the resource"),
        ("412", "The resource was changed since you read it"),
        ("413", "The body is larger than 1 MiB"),
        ("415", "The body is in a content coding that is not understood"),
        ("422", "The Idempotency-Key was used for another request"),
        (
            "429",
            "Too many calls in a minute, too many changes in a day, or too many wrong credentials from your address",
        ),
        ("500", "A defect of the gateway"),
        (
            "503",
            "The database, or the vendor that has to be asked, cannot be reached, or too many calls are in progress",
        ),
    ];

    fn parts(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_request", "Invalid request"),
            Self::Unauthenticated(_) => {
                (StatusCode::UNAUTHORIZED, "unauthenticated", "Authentication required")
            }
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::DoesNotFit { .. } => (StatusCode::CONFLICT, "does_not_fit", "Does not fit"),
            Self::VendorUnreachable(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "vendor_unreachable", "Vendor cannot be reached")
            }
            Self::Stale { .. } => {
                (StatusCode::PRECONDITION_FAILED, "changed_meanwhile", "Changed in the meantime")
            }
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "body_too_slow", "Body too slow"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Body too large"),
            Self::UnknownCoding => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown_coding", "Content coding not understood")
            }
            Self::KeyReused => {
                (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency key reused")
            }
            Self::InProgress => (StatusCode::CONFLICT, "request_in_progress", "Request in progress"),
            Self::TooManyAttempts(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", "Too many attempts")
            }
            Self::TooManyCalls { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many calls"),
            Self::TooManyChanges { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many changes")
            }
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many calls in progress"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Unavailable"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Internal error"),
        }
    }
}

impl Problem {
    /// After how many seconds the same call may be sent again; none: it would fare no better.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooManyAttempts(after)
            | Self::TooManyCalls { retry_after: after, .. }
            | Self::TooManyChanges { retry_after: after, .. } => Some(after.as_secs().saturating_add(1)),
            Self::InProgress | Self::Busy => Some(1),
            Self::Unavailable | Self::VendorUnreachable(_) => Some(5),
            Self::Invalid(_)
            | Self::Unauthenticated(_)
            | Self::Forbidden(_)
            | Self::NotFound(_)
            | Self::MethodNotAllowed(_)
            | Self::Conflict(_)
            | Self::DoesNotFit { .. }
            | Self::Stale { .. }
            | Self::TooSlow
            | Self::TooLarge
            | Self::UnknownCoding
            | Self::KeyReused
            | Self::Internal => None,
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unstorable(_) => Self::Invalid(
                "a value cannot be stored: a number is out of range, or a text has a character that is not allowed"
                    .into(),
            ),
            StoreError::Invalid(what) => Self::Invalid(what),
            StoreError::NotFound(what) => Self::NotFound(what),
            StoreError::Conflict(what) => Self::Conflict(what),
            StoreError::KeyReused => Self::KeyReused,
            StoreError::InProgress => Self::InProgress,
            StoreError::Stale { current } => Self::Stale { current },
            StoreError::Corrupt(_) | StoreError::Refused(_) => {
                tracing::error!(%error, "a management call met a defect");
                Self::Internal
            }
            StoreError::Timeout
            | StoreError::QueueFull
            | StoreError::ShuttingDown
            | StoreError::Unreachable
            | StoreError::NoPrimary(_)
            | StoreError::Database(_)
            | StoreError::Schema(_) => {
                tracing::warn!(%error, "a management call failed because the database cannot be reached");
                Self::Unavailable
            }
        }
    }
}

impl From<GivenTwice> for Problem {
    fn from(error: GivenTwice) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<BadBody> for Problem {
    fn from(bad: BadBody) -> Self {
        match bad {
            BadBody::CutOff => Self::Invalid("the connection ended before the body did".into()),
            BadBody::TooLarge => Self::TooLarge,
            BadBody::TooSlow => Self::TooSlow,
            BadBody::NoRoom => Self::Busy,
            BadBody::UnknownCoding => Self::UnknownCoding,
            BadBody::NotGzip => {
                Self::Invalid("the body is not gzip, although 'Content-Encoding: gzip' says so".into())
            }
        }
    }
}

/// Errors of authentication, which both planes share, in the words of the management API.
impl From<GatewayError> for Problem {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::RateLimited { retry_after, .. } => Self::TooManyAttempts(retry_after),
            GatewayError::Unauthenticated(_) => Self::Unauthenticated(
                "send 'Authorization: Bearer <token>' with an API key of an organisation, or an operator token".into(),
            ),
            GatewayError::NetworkNotAllowed => Self::Forbidden(error.to_string()),
            GatewayError::Forbidden(why) => Self::Forbidden(why.into()),
            GatewayError::Unavailable(error) => error.into(),
            GatewayError::NoRoom => Self::Busy,
            GatewayError::IdentityUnavailable(_) => Self::Unavailable,
            // What the data plane says of its own calls.
            GatewayError::Invalid(_)
            | GatewayError::Suspended
            | GatewayError::Stopped
            | GatewayError::TypeNotAllowed(_)
            | GatewayError::NotFound
            | GatewayError::MethodNotAllowed(_)
            | GatewayError::TaskNotFound
            | GatewayError::BodyTooLarge
            | GatewayError::UnknownCoding
            | GatewayError::TooManyTasks
            | GatewayError::InsufficientCredits { .. }
            | GatewayError::BudgetExceeded(_)
            | GatewayError::RequestInProgress
            | GatewayError::IdempotencyKeyReused
            | GatewayError::RefusedByVendor { .. }
            | GatewayError::UpstreamError(_)
            | GatewayError::UpstreamUnavailable(_)
            | GatewayError::NotAdmitted(_)
            | GatewayError::UpstreamBusy { .. }
            | GatewayError::OutcomeUnknown { .. }
            | GatewayError::WrittenOff { .. }
            | GatewayError::Internal(_) => {
                tracing::error!(?error, "authentication met a defect");
                Self::Internal
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code, title) = self.parts();
        let details = ProblemDetails {
            kind: format!("urn:tollgate:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
            code,
            data: if let Self::DoesNotFit { data, .. } = &self { Some(data.clone()) } else { None },
        };
        let mut answer = (status, serde_json::to_string(&details).unwrap_or_default()).into_response();
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after() {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Self::UnknownCoding = self {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED_CODINGS));
        }
        if let Self::MethodNotAllowed(allowed) = self
            && let Ok(allowed) = HeaderValue::try_from(allowed)
        {
            headers.insert(ALLOW, allowed);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error_samples as samples;

    /// Status, code, and after how many seconds the same call may be sent again; none: it would fare no better.
    fn expected(error: &str) -> (u16, &'static str, Option<u64>) {
        match error {
            "Invalid" | "Unstorable" => (400, "invalid_request", None),
            "NotFound" => (404, "not_found", None),
            "Conflict" => (409, "conflict", None),
            "InProgress" => (409, "request_in_progress", Some(1)),
            "Stale" => (412, "changed_meanwhile", None),
            "KeyReused" => (422, "idempotency_key_reused", None),
            "Corrupt" | "Refused" => (500, "internal_error", None),
            "Timeout" | "QueueFull" | "ShuttingDown" | "Unreachable" | "NoPrimary" | "Database"
            | "Schema" => (503, "unavailable", Some(5)),
            other => panic!("what is {other} for a caller?"),
        }
    }

    #[test]
    fn every_error_of_the_store_is_decided_for_those_who_manage() {
        for error in samples::all() {
            let name = samples::name(&error);
            let (status, code, retry_after) = expected(name);
            let problem = Problem::from(error);
            assert_eq!((problem.parts().0.as_u16(), problem.parts().1), (status, code), "{name}");
            assert_eq!(problem.retry_after(), retry_after, "{name}");
            let answer = problem.into_response();
            assert_eq!(answer.headers().contains_key(RETRY_AFTER), retry_after.is_some(), "{name}");
        }
    }
}
