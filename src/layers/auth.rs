//! Who is calling. 401 is only for a definite "no"; if that cannot be known, 503 (contract, section 4).

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::AUTHORIZATION;
use tower::{Layer, Service};

use super::{LayerFuture, Stage, part};
use crate::access::callers::{Authenticator, Caller};
use crate::call::{Authenticated, Call, Endpoint, Routed};
use crate::error::{Answer, GatewayError};
use crate::strict;

/// See the module.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    /// The keys.
    pub keys: Arc<Authenticator>,
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { inner, keys: self.keys.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Auth<S> {
    inner: S,
    keys: Arc<Authenticator>,
}

impl<S: Stage<Authenticated>> Service<Call<Routed>> for Auth<S> {
    type Response = Answer;
    type Error = GatewayError;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GatewayError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call<Routed>) -> LayerFuture {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let keys = self.keys.clone();
        Box::pin(async move {
            let endpoint = call.stage.endpoint;
            strict::single_header(&call.context.headers, "Authorization")?;
            // Taken out: from here on the credentials are gone.
            let header = call.context.headers.remove(AUTHORIZATION);
            let header = header.as_ref().map(|value| value.to_str().unwrap_or_default());
            let stale_will_do = endpoint == Endpoint::Status;
            let who = keys.authenticate(header, call.context.peer, stale_will_do);
            let principal = match part("auth", who).await? {
                Caller::Tenant(principal) => principal,
                Caller::Operator(_) => {
                    return Err(GatewayError::Forbidden(
                        "operators create no tasks: use a key of an organisation",
                    ));
                }
            };
            call.context.notes.add(|notes| notes.principal = Some(principal.clone()));
            inner.call(call.advance(|_| Authenticated { endpoint, principal })).await
        })
    }
}
