//! Why a page cannot be shown, in words.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderValue, StatusCode};

use super::client::Problem;
use super::cookies::Theme;
use super::frame::html;
use super::shell::Bare;
use super::{Audience, Console};
use crate::error::GatewayError;

/// Why a page cannot be shown.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// The session has ended, or there is none: the visitor signs in and comes back to this place.
    SignIn {
        back: String,
    },
    Problem(Arc<Problem>),
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Problem(Arc::new(problem))
    }
}

impl From<GatewayError> for Trouble {
    fn from(error: GatewayError) -> Self {
        Problem::of(&error).into()
    }
}

impl Trouble {
    fn of(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Problem::new(status, code, message).into()
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::of(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message)
    }

    /// A field of a form that is wrong.
    pub(super) fn field(name: &'static str, message: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", message);
        Problem { field: Some(name.to_owned()), ..problem }.into()
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::of(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::of(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(super) fn internal() -> Self {
        Self::of(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL_ERROR",
            "An internal error. It is in the gateway's log.",
        )
    }

    /// The page that tells of the trouble.
    pub(super) fn page(&self, console: &Console, theme: Theme, bare_answer: Response) -> Response {
        let problem = match self {
            Self::SignIn { back } => {
                let back: String = url::form_urlencoded::byte_serialize(back.as_bytes()).collect();
                return redirect(&format!("{}/console/sign-in?back={back}", console.base()));
            }
            Self::Problem(problem) => problem.clone(),
        };
        let title = match problem.status.as_u16() {
            401 => "Sign in again",
            403 => "Not allowed",
            404 => "Not found",
            409 | 412 => "It has changed meanwhile",
            429 => "Too many requests",
            500 => "Something broke",
            502..=504 => "Not available right now",
            _ => "That did not work",
        };
        let page = TroublePage {
            bare: Bare::new(console, theme, title),
            operators: console.parts.audience == Audience::Operators,
            problem: &problem,
        };
        let mut answer = html(&page);
        *answer.status_mut() = problem.status;
        if let Some(seconds) = problem.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        drop(bare_answer);
        answer
    }
}

#[derive(Debug, askama::Template)]
#[template(path = "trouble.html")]
struct TroublePage<'a> {
    bare: Bare,
    operators: bool,
    problem: &'a Problem,
}

/// The frame makes a page of it, which knows what the console looks like.
impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let mut answer = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        answer.extensions_mut().insert(self);
        answer
    }
}

/// Sends the browser to another page.
pub(super) fn redirect(to: &str) -> Response {
    let mut answer = StatusCode::SEE_OTHER.into_response();
    if let Ok(place) = HeaderValue::try_from(to) {
        answer.headers_mut().insert(LOCATION, place);
    }
    answer
}
