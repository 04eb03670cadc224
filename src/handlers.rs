//! What the data plane answers by itself: status, quote, credits, tasks.

mod credits;
mod document;
mod generate;
mod quote;
mod status;
mod tasks;

pub use self::document::document;

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower::Service;

use crate::call::{Admitted, Call, Endpoint};
use crate::clock::Clock;
use crate::error::{Answer, GatewayError};
use crate::layers::{LayerFuture, Stage};
use crate::poll::Poller;
use crate::price_cache::Prices;
use crate::store::Database;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// For reading.
    pub database: Database,
    /// For the state of tasks.
    pub poller: Arc<Poller>,
    /// For quotes.
    pub prices: Arc<Prices>,
    /// For how long a quote may bind, at most.
    pub max_quote: Duration,
    /// How long a client may take to send its body.
    pub body_timeout: Duration,
    /// The time.
    pub clock: Clock,
}

/// Sends creates into the paid path and answers the rest.
#[derive(Debug, Clone)]
pub struct Dispatch<C> {
    /// The paid path.
    pub create: C,
    /// Everything else.
    pub handlers: Handlers,
}

impl<C: Stage<Admitted>> Service<Call<Admitted>> for Dispatch<C> {
    type Response = Answer;
    type Error = GatewayError;
    type Future = LayerFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GatewayError>> {
        self.create.poll_ready(cx)
    }

    fn call(&mut self, call: Call<Admitted>) -> LayerFuture {
        let clone = self.create.clone();
        let create = std::mem::replace(&mut self.create, clone);
        let handlers = self.handlers.clone();
        match call.stage.endpoint {
            Endpoint::Generate => Box::pin(generate::generate(create, call)),
            Endpoint::Status => Box::pin(status::status(handlers, call)),
            Endpoint::Quote => Box::pin(quote::quote(handlers, call)),
            Endpoint::Credits => Box::pin(credits::credits(handlers, call)),
            Endpoint::Tasks => Box::pin(tasks::tasks(handlers, call)),
        }
    }
}
