//! Which endpoint a call is for; liveness and the description of the API are answered here. What is not listed here is
//! not forwarded anywhere.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use http_body_util::Full;
use tower::{Layer, Service};

use super::{LayerFuture, Stage};
use crate::call::{Arrived, Call, Endpoint, Routed};
use crate::docs_page;
use crate::error::{Answer, GatewayError, json_answer};

/// See the module.
#[derive(Debug, Clone)]
pub struct RouteLayer {
    /// The OpenAPI document.
    pub document: Bytes,
}

impl<S> Layer<S> for RouteLayer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Route<S> {
        Route { inner, document: self.document.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Route<S> {
    inner: S,
    document: Bytes,
}

enum Found {
    Endpoint(Endpoint),
    Health,
    Document,
    Docs,
}

/// Tell that the process answers
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "healthz",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain"))
)]
pub(crate) fn healthz() -> Answer {
    let mut answer = Answer::new(Full::from("ok\n"));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn route(method: &Method, path: &str) -> Result<Found, GatewayError> {
    let looks = method == Method::GET || method == Method::HEAD;
    let (endpoint, takes, allowed) = match path {
        "/healthz" if looks => return Ok(Found::Health),
        "/openapi.json" if looks => return Ok(Found::Document),
        path if looks && docs_page::is_below(path) => return Ok(Found::Docs),
        path if ["/healthz", "/openapi.json"].contains(&path) || docs_page::is_below(path) => {
            return Err(GatewayError::MethodNotAllowed("GET, HEAD"));
        }
        "/api/generate" => (Endpoint::Generate, Method::POST, "POST"),
        "/api/quote" => (Endpoint::Quote, Method::POST, "POST"),
        "/api/status" => (Endpoint::Status, Method::GET, "GET"),
        "/api/credits" => (Endpoint::Credits, Method::GET, "GET"),
        "/api/tasks" => (Endpoint::Tasks, Method::GET, "GET"),
        _ => return Err(GatewayError::NotFound),
    };
    if *method == takes {
        Ok(Found::Endpoint(endpoint))
    } else {
        Err(GatewayError::MethodNotAllowed(allowed))
    }
}

impl<S: Stage<Routed>> Service<Call<Arrived>> for Route<S> {
    type Response = Answer;
    type Error = GatewayError;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GatewayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call<Arrived>) -> LayerFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        match route(&call.context.method, &call.context.path) {
            Ok(Found::Health) => Box::pin(std::future::ready(Ok(healthz()))),
            Ok(Found::Document) => {
                Box::pin(std::future::ready(Ok(json_answer(StatusCode::OK, self.document.clone()))))
            }
            Ok(Found::Docs) => {
                let page = docs_page::page(&call.context.path).map(|page| page.map(Full::from));
                Box::pin(std::future::ready(page.ok_or(GatewayError::NotFound)))
            }
            Ok(Found::Endpoint(endpoint)) => {
                call.context.notes.add(|notes| notes.endpoint = Some(endpoint));
                Box::pin(async move { inner.call(call.advance(|_| Routed { endpoint })).await })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}
