//! Finds the endpoint of a call. Answers the liveness check and the API's documents itself. Unknown paths get 404: nothing
//! is forwarded that is not listed here.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::Full;

use super::{Below, Outcome, Stage};
use crate::call::{Arrived, Call, Endpoint, Routed};
use crate::docs_page::{self, Shown};
use crate::error::{Answer, GatewayError, json_answer};

/// Finds the endpoint of a call by method and path.
#[derive(Debug, Clone)]
pub struct Route {
    /// The data plane's OpenAPI document.
    pub document: Bytes,
}

enum Found {
    Endpoint(Endpoint),
    Health,
    Document,
    Docs,
}

/// Check that the process answers
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "healthz",
    responses((status = 200, description = "The process answers", body = String, content_type = "text/plain"))
)]
pub(crate) fn healthz() -> Answer {
    let mut answer = Answer::new(Full::from("ok\n"));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// The methods of a path that is only read.
const READS: &str = "GET, HEAD";

fn route(method: &Method, path: &str) -> Result<Found, GatewayError> {
    let looks = method == Method::GET || method == Method::HEAD;
    let (endpoint, takes, allowed) = match path {
        "/healthz" if looks => return Ok(Found::Health),
        "/openapi.json" if looks => return Ok(Found::Document),
        path if looks && docs_page::is_below(path) => return Ok(Found::Docs),
        path if ["/healthz", "/openapi.json"].contains(&path) || docs_page::is_below(path) => {
            return Err(GatewayError::MethodNotAllowed(READS));
        }
        "/api/generate" => (Endpoint::Generate, Method::POST, "POST"),
        "/api/quote" => (Endpoint::Quote, Method::POST, "POST"),
        "/api/status" => (Endpoint::Status, Method::GET, READS),
        "/api/credits" => (Endpoint::Credits, Method::GET, READS),
        "/api/tasks" => (Endpoint::Tasks, Method::GET, READS),
        "/api/prices" => (Endpoint::Prices, Method::GET, READS),
        "/api/me" => (Endpoint::Me, Method::GET, READS),
        path if task_of(path).is_some() => (Endpoint::Task, Method::GET, READS),
        path if task_of_content(path).is_some() => (Endpoint::Content, Method::DELETE, "DELETE"),
        _ => return Err(GatewayError::NotFound),
    };
    if *method == takes || (looks && takes == Method::GET) {
        Ok(Found::Endpoint(endpoint))
    } else {
        Err(GatewayError::MethodNotAllowed(allowed))
    }
}

/// The task that a path of [`Endpoint::Task`] names.
pub(crate) fn task_of(path: &str) -> Option<&str> {
    let task = path.strip_prefix("/api/tasks/")?;
    (!task.is_empty() && !task.contains('/')).then_some(task)
}

/// The task that a path of [`Endpoint::Content`] names.
pub(crate) fn task_of_content(path: &str) -> Option<&str> {
    let task = path.strip_prefix("/api/tasks/")?.strip_suffix("/content")?;
    (!task.is_empty() && !task.contains('/')).then_some(task)
}

impl Stage for Route {
    type In = Arrived;
    type Out = Routed;

    async fn run(&self, call: Call<Arrived>, below: &impl Below<Routed>) -> Outcome {
        call.context.host.map_err(GatewayError::from)?;
        match route(&call.context.method, &call.context.path)? {
            Found::Health => Ok(healthz()),
            Found::Document => Ok(json_answer(StatusCode::OK, self.document.clone())),
            Found::Docs => {
                let page =
                    docs_page::page(Shown::DataPlane, &call.context.path).map(|page| page.map(Full::from));
                Ok(page.ok_or(GatewayError::NotFound)?)
            }
            Found::Endpoint(endpoint) => {
                call.context.notes.add(|notes| notes.endpoint = Some(endpoint));
                below.take(call.advance(|Arrived| Routed { endpoint })).await
            }
        }
    }
}
