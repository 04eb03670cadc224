//! The error type of the data plane, and the only place where it becomes an answer.
#![deny(clippy::wildcard_enum_match_arm)]

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use crate::bulk::NotWorked;
use crate::credits::Credits;
use crate::ids::HoldId;
use crate::order::Invalid;
use crate::store::{BudgetInForce, StoreError};
use crate::strict::{BadHost, GivenTwice};
use crate::upstream::Refusal;
use crate::wire::{self, Code};

/// The longest `Retry-After` for a caller without credits.
const PARKED: Duration = Duration::from_secs(3600);

/// An answer of the data plane.
pub type Answer = Response<Full<Bytes>>;

/// The level at which a rate limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// A client address that sent too many wrong credentials.
    Address,
    Key,
    User,
    Org,
    /// An operator of the platform.
    Operator,
}

impl Level {
    /// The name on the wire and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Key => "key",
            Self::User => "user",
            Self::Org => "organisation",
            Self::Operator => "operator",
        }
    }
}

/// A hold that a budget does not allow.
#[derive(Debug)]
pub struct OverBudget {
    pub budget: BudgetInForce,
    /// Credits held and charged in the budget's current window.
    pub used: Credits,
    /// Credits of the refused hold.
    pub required: Credits,
    /// The address of the console's page where more is asked for, and granted.
    pub ask: Option<String>,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { budget, used, required, ask: _ } = self;
        let (period, level, limit) = (budget.period.as_str(), budget.level.as_str(), budget.limit);
        write!(
            f,
            "the {period} budget of this {level} is exceeded: {required} credits are needed, {used} of {limit} are used"
        )
    }
}

/// Why a call of the data plane was not served.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The request is malformed.
    #[error("{}", .0.message)]
    Invalid(Invalid),
    /// There are no credentials, or they are not valid.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The key may not be used from the client's address.
    #[error("this API key may not be used from your network")]
    NetworkNotAllowed,
    /// Organisation, team or user is suspended.
    #[error("your organisation, team or user is suspended: new tasks are refused, running tasks finish")]
    Suspended,
    /// The creates of the organisation are stopped because of its exposure.
    #[error(
        "new tasks of your organisation are stopped: what its tasks cost the platform, or may have cost it, has reached a \
         limit. Running tasks finish. Ask the operator of this service to look into it and to allow new tasks again"
    )]
    Stopped,
    /// The key may not create this task type.
    #[error("this API key may not create tasks of type {0}")]
    TypeNotAllowed(String),
    /// The caller may not make this call.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The path does not exist.
    #[error("there is nothing at this path")]
    NotFound,
    /// The path does not take this method; it takes the ones named here.
    #[error("this path takes {0}")]
    MethodNotAllowed(&'static str),
    /// The caller's organisation has no task with this id.
    #[error("there is no task with this id")]
    TaskNotFound,
    /// The body is over 16 MiB.
    #[error("the body is larger than 16 MiB")]
    BodyTooLarge,
    /// The body is in a content coding that is not understood.
    #[error(
        "the body is in a content coding that is not understood: send it as it is, or compressed with 'Content-Encoding: gzip'"
    )]
    UnknownCoding,
    /// A rate limit was reached.
    #[error("too many requests for this {}: slow down", .level.as_str())]
    RateLimited { level: Level, retry_after: Duration },
    /// The organisation has as many unfinished tasks as it may have.
    #[error("your organisation has reached its limit of unfinished tasks: wait for one to finish")]
    TooManyTasks,
    /// The balance does not cover the hold.
    #[error("{required} credits are needed, {available} are available")]
    InsufficientCredits {
        /// Credits of the refused hold.
        required: Credits,
        /// Credits that are available.
        available: Credits,
    },
    /// A budget does not cover the hold.
    #[error("{0}")]
    BudgetExceeded(Box<OverBudget>),
    /// The first request with this idempotency key is still in progress.
    #[error("a request with this Idempotency-Key is still in progress")]
    RequestInProgress,
    /// The idempotency key was used with another body.
    #[error("this Idempotency-Key was used with another body")]
    IdempotencyKeyReused,
    /// The vendor refused the request; its own code and message pass through.
    #[error("{message}")]
    RefusedByVendor { error: String, message: String },
    /// The vendor refused the request for a reason that the caller cannot change.
    #[error("{0}")]
    UpstreamError(&'static str),
    /// The vendor cannot be reached; nothing is charged.
    #[error("{0}")]
    UpstreamUnavailable(&'static str),
    /// The vendor is not called right now; nothing is held.
    #[error(transparent)]
    NotAdmitted(Refusal),
    /// The vendor is busy, and stayed busy when the request was sent again.
    #[error("the video service is busy: try again later")]
    UpstreamBusy { retry_after: Duration },
    /// Whether the vendor accepted the task is unknown.
    #[error(
        "whether this task was started is unknown. Do not simply send it again: its credits stay held until the outcome \
         is known. Ask GET /api/status?task_id={reference} for it, or send it again with 'X-Tollgate-Resend: yes'"
    )]
    OutcomeUnknown {
        /// The hold's id, which a status call takes as `task_id`.
        reference: HoldId,
    },
    /// The task of this idempotency key was written off: its outcome stayed unknown, its credits were refunded.
    #[error(
        "the outcome of this task stayed unknown; it was not charged. Use a new Idempotency-Key to try again"
    )]
    WrittenOff { reference: HoldId },
    /// The gateway cannot serve the request right now; nothing is charged.
    #[error("the gateway cannot serve this request right now: try again")]
    Unavailable(#[source] StoreError),
    /// Too many bytes of bodies and answers are in memory; this organisation has its share of them.
    #[error("the gateway has no room for this request right now: try again")]
    NoRoom,
    /// An identity provider does not answer as it should, so that nothing is known about the caller.
    #[error("{0}")]
    IdentityUnavailable(&'static str),
    /// A defect of the gateway.
    #[error("an internal error; nothing is charged unless a status call says otherwise")]
    Internal(Cow<'static, str>),
}

impl From<Invalid> for GatewayError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<NotWorked> for GatewayError {
    fn from(error: NotWorked) -> Self {
        match error {
            NotWorked::TooManyWait(_) => Self::NoRoom,
            NotWorked::Panicked => Self::Internal(error.to_string().into()),
        }
    }
}

impl From<GivenTwice> for GatewayError {
    fn from(error: GivenTwice) -> Self {
        Self::invalid_request(error.to_string())
    }
}

impl From<BadHost> for GatewayError {
    fn from(error: BadHost) -> Self {
        Self::invalid_request(error.to_string())
    }
}

/// What a caller of the data plane is told. Nothing was sent and nothing is charged in any of these.
impl From<StoreError> for GatewayError {
    fn from(error: StoreError) -> Self {
        match error {
            // It will pass, or another gateway may serve it: the same call may be sent again.
            StoreError::Timeout
            | StoreError::QueueFull
            | StoreError::ShuttingDown
            | StoreError::Unreachable
            | StoreError::NoPrimary(_)
            | StoreError::Database(_)
            | StoreError::Schema(_) => Self::Unavailable(error),
            // The same call would be refused again.
            StoreError::Unstorable(_) => Self::invalid_request(
                "a value of this request is out of range, or has a character that no text may have",
            ),
            StoreError::Corrupt(what) => Self::Internal(what),
            StoreError::Refused(_) => Self::Internal("the database refused an item".into()),
            // Answers to those who manage: no call of the data plane should have asked for them.
            StoreError::Invalid(_)
            | StoreError::NotFound(_)
            | StoreError::Conflict(_)
            | StoreError::KeyReused
            | StoreError::InProgress
            | StoreError::Stale { .. } => Self::Internal(error.to_string().into()),
        }
    }
}

impl GatewayError {
    /// An `INVALID_REQUEST` with this message.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::Invalid(Invalid { code: Code::InvalidRequest, message: message.into() })
    }

    /// The stable code; none: the vendor's own code passes through.
    pub fn code(&self) -> Option<Code> {
        Some(match self {
            Self::Invalid(invalid) => invalid.code,
            Self::Unauthenticated(_) => Code::InvalidApiKey,
            Self::NetworkNotAllowed => Code::NetworkNotAllowed,
            Self::Suspended | Self::Stopped => Code::Suspended,
            Self::TypeNotAllowed(_) => Code::TypeNotAllowed,
            Self::Forbidden(_) => Code::Forbidden,
            Self::NotFound => Code::NotFound,
            Self::MethodNotAllowed(_) => Code::MethodNotAllowed,
            Self::TaskNotFound => Code::TaskNotFound,
            Self::BodyTooLarge => Code::BodyTooLarge,
            Self::UnknownCoding => Code::InvalidRequest,
            Self::RateLimited { .. } | Self::UpstreamBusy { .. } => Code::RateLimited,
            Self::TooManyTasks => Code::TooManyTasks,
            Self::InsufficientCredits { .. } => Code::InsufficientCredits,
            Self::BudgetExceeded(_) => Code::BudgetExceeded,
            Self::RequestInProgress => Code::RequestInProgress,
            Self::IdempotencyKeyReused => Code::IdempotencyKeyReused,
            Self::RefusedByVendor { .. } => return None,
            Self::UpstreamError(_) => Code::UpstreamError,
            Self::UpstreamUnavailable(_) | Self::NotAdmitted(_) => Code::UpstreamUnavailable,
            Self::OutcomeUnknown { .. } | Self::WrittenOff { .. } => Code::OutcomeUnknown,
            Self::Unavailable(_) | Self::NoRoom | Self::IdentityUnavailable(_) => Code::Unavailable,
            Self::Internal(_) => Code::InternalError,
        })
    }

    pub fn status(&self) -> StatusCode {
        if let Self::UnknownCoding = self {
            return StatusCode::UNSUPPORTED_MEDIA_TYPE;
        }
        self.code().map_or(StatusCode::BAD_REQUEST, Code::status)
    }

    /// How long to wait before the same call may do better.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::UpstreamBusy { retry_after } => Some(*retry_after),
            // ⚑ One known client stops using its key for as long as the `Retry-After` of a 402 says.
            Self::InsufficientCredits { .. } => Some(PARKED),
            Self::BudgetExceeded(over) => {
                Some(over.budget.resets_in.map_or(PARKED, |after| after.min(PARKED)))
            }
            Self::TooManyTasks => Some(Duration::from_secs(10)),
            Self::RequestInProgress => Some(Duration::from_secs(2)),
            Self::UpstreamUnavailable(_) => Some(Duration::from_secs(30)),
            Self::NotAdmitted(refusal) => Some(refusal.retry_after()),
            Self::NoRoom => Some(Duration::from_secs(1)),
            Self::Unavailable(_) | Self::IdentityUnavailable(_) => Some(Duration::from_secs(5)),
            // Waiting alone mends none of these.
            Self::Invalid(_)
            | Self::Unauthenticated(_)
            | Self::NetworkNotAllowed
            | Self::Suspended
            | Self::Stopped
            | Self::TypeNotAllowed(_)
            | Self::Forbidden(_)
            | Self::NotFound
            | Self::MethodNotAllowed(_)
            | Self::TaskNotFound
            | Self::BodyTooLarge
            | Self::UnknownCoding
            | Self::IdempotencyKeyReused
            | Self::RefusedByVendor { .. }
            | Self::UpstreamError(_)
            | Self::OutcomeUnknown { .. }
            | Self::WrittenOff { .. }
            | Self::Internal(_) => None,
        }
    }

    fn data(&self) -> Option<serde_json::Value> {
        match self {
            Self::InsufficientCredits { required, available } => {
                Some(json!({ "required": required, "available": available }))
            }
            Self::BudgetExceeded(over) => {
                let budget = &over.budget;
                let resets_at = budget.resets_at.and_then(|at| at.format(&Rfc3339).ok());
                let mut data = json!({
                    "level": budget.level, "period": budget.period, "limit": budget.limit, "used": over.used,
                    "required": over.required, "resets_at": resets_at,
                });
                if let Some(ask) = &over.ask {
                    data["ask"] = json!(ask);
                }
                Some(data)
            }
            Self::OutcomeUnknown { reference } => {
                Some(json!({ "task_id": reference, "charged": "held", "retry_safe": false }))
            }
            Self::WrittenOff { reference } => {
                Some(json!({ "task_id": reference, "charged": "no", "retry_safe": true }))
            }
            Self::RateLimited { level, .. } => Some(json!({ "limit": level.as_str() })),
            Self::Invalid(_)
            | Self::Unauthenticated(_)
            | Self::NetworkNotAllowed
            | Self::Suspended
            | Self::Stopped
            | Self::TypeNotAllowed(_)
            | Self::Forbidden(_)
            | Self::NotFound
            | Self::MethodNotAllowed(_)
            | Self::TaskNotFound
            | Self::BodyTooLarge
            | Self::UnknownCoding
            | Self::TooManyTasks
            | Self::RequestInProgress
            | Self::IdempotencyKeyReused
            | Self::RefusedByVendor { .. }
            | Self::UpstreamError(_)
            | Self::UpstreamUnavailable(_)
            | Self::NotAdmitted(_)
            | Self::UpstreamBusy { .. }
            | Self::Unavailable(_)
            | Self::NoRoom
            | Self::IdentityUnavailable(_)
            | Self::Internal(_) => None,
        }
    }

    pub fn into_answer(self) -> Answer {
        let status = self.status();
        let message = self.to_string();
        let body = if let Self::RefusedByVendor { error, .. } = &self {
            wire::failure(status, error, &message, None)
        } else {
            let code = self.code().unwrap_or(Code::InternalError);
            wire::failure(status, code.as_str(), &message, self.data().as_ref())
        };
        let mut answer = json_answer(status, body);
        let headers = answer.headers_mut();
        if let Some(after) = self.retry_after() {
            let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Self::UnknownCoding = self {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(wire::ACCEPTED_CODINGS));
        }
        if let Self::MethodNotAllowed(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

/// An answer with a JSON body.
pub fn json_answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error_samples as samples;

    /// Status, code, and after how many seconds the same call may be sent again; none: it would fare no better.
    fn expected(error: &str) -> (u16, &'static str, Option<u64>) {
        match error {
            "Timeout" | "QueueFull" | "ShuttingDown" | "Unreachable" | "NoPrimary" | "Database"
            | "Schema" => (503, "UNAVAILABLE", Some(5)),
            "Unstorable" => (400, "INVALID_REQUEST", None),
            "Corrupt" | "Refused" => (500, "INTERNAL_ERROR", None),
            "Invalid" | "NotFound" | "Conflict" | "KeyReused" | "InProgress" | "Stale" => {
                (500, "INTERNAL_ERROR", None)
            }
            other => panic!("what is {other} for a caller?"),
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an answer of ours has each header once")]
    fn every_error_of_the_store_is_decided_for_callers_of_the_data_plane() {
        for error in samples::all() {
            let (name, source) = (samples::name(&error), error.to_string());
            let (status, code, retry_after) = expected(name);
            let answer = GatewayError::from(error);
            assert_eq!(answer.code().unwrap().as_str(), code, "{name}");
            let said = answer.to_string();
            assert!(!said.contains(&source), "{name}: callers see no detail of the store: {said}");
            let answer = answer.into_answer();
            assert_eq!(answer.status(), status, "{name}");
            let seconds =
                answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().parse().unwrap());
            assert_eq!(seconds, retry_after, "{name}");
        }
    }

    #[test]
    fn every_401_says_how_to_authenticate() {
        let answer = GatewayError::Unauthenticated("no key").into_answer();
        assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Bearer");
    }
}
