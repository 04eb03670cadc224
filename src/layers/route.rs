//! Which endpoint a call is for; liveness is answered here. What is not listed here is not forwarded anywhere.

use std::task::{Context, Poll};

use http::Method;
use http_body_util::Full;
use tower::{Layer, Service};

use super::{LayerFuture, Stage};
use crate::call::{Arrived, Call, Endpoint, Routed};
use crate::error::{Answer, GatewayError};

/// See the module.
#[derive(Debug, Clone)]
pub struct RouteLayer;

impl<S> Layer<S> for RouteLayer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Route<S> {
        Route { inner }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Route<S> {
    inner: S,
}

enum Found {
    Endpoint(Endpoint),
    Health,
}

fn route(method: &Method, path: &str) -> Result<Found, GatewayError> {
    let (endpoint, takes, allowed) = match path {
        "/healthz" if method == Method::GET || method == Method::HEAD => return Ok(Found::Health),
        "/healthz" => return Err(GatewayError::MethodNotAllowed("GET, HEAD")),
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
            Ok(Found::Health) => Box::pin(std::future::ready(Ok(Answer::new(Full::from("ok\n"))))),
            Ok(Found::Endpoint(endpoint)) => {
                call.context.notes.add(|notes| notes.endpoint = Some(endpoint));
                Box::pin(async move { inner.call(call.advance(|_| Routed { endpoint })).await })
            }
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}
