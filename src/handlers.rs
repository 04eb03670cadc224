//! What the data plane answers by itself: status, quote, credits, tasks.

mod credits;
mod document;
mod generate;
mod quote;
mod status;
mod tasks;

pub use self::document::document;

use std::sync::Arc;
use std::time::Duration;

use crate::call::{Admitted, Call, Endpoint};
use crate::clock::Clock;
use crate::layers::{Below, Outcome};
use crate::poll::Poller;
use crate::price_cache::Prices;
use crate::store::Database;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Balances, budgets and lists of tasks are read here.
    pub database: Database,
    /// Knows the state of tasks, and asks the vendor for it.
    pub poller: Arc<Poller>,
    pub prices: Arc<Prices>,
    /// The longest time for which a quote may bind.
    pub max_quote: Duration,
    /// How long a client may take to send its body.
    pub body_timeout: Duration,
    /// Tells how old a state is.
    pub clock: Clock,
}

/// Sends creates into the paid path and answers the rest.
#[derive(Debug, Clone)]
pub struct Dispatch<C> {
    pub create: C,
    pub handlers: Handlers,
}

impl<C: Below<Admitted>> Below<Admitted> for Dispatch<C> {
    async fn take(&self, call: Call<Admitted>) -> Outcome {
        let answer = match call.stage.endpoint {
            Endpoint::Generate => return generate::generate(&self.create, call).await,
            Endpoint::Status => status::status(&self.handlers, call).await,
            Endpoint::Quote => quote::quote(&self.handlers, call).await,
            Endpoint::Credits => credits::credits(&self.handlers, call).await,
            Endpoint::Tasks => tasks::tasks(&self.handlers, call).await,
        };
        Ok(answer?)
    }
}
