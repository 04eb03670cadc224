//! The endpoints of the data plane. All but creates are answered here, without the paid stages.

mod content;
mod credits;
mod document;
mod generate;
mod me;
mod prices;
mod quote;
mod status;
mod task;
mod tasks;

pub use self::document::document;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use crate::bulk::{Bulk, Payer, Room};
use crate::call::{Admitted, Call, Endpoint};
use crate::clock::Clock;
use crate::error::{Answer, GatewayError, json_answer};
use crate::ids::OrgId;
use crate::layers::body::BodyReader;
use crate::layers::refusals::Refusals;
use crate::layers::{Below, Outcome};
use crate::poll::Poller;
use crate::price_cache::Prices;
use crate::store::SharedDatabase;

/// The parts that the handlers share.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Reads balances, budgets and lists of tasks.
    pub database: SharedDatabase<OrgId>,
    /// Answers the state of tasks, and polls the vendor for it.
    pub poller: Arc<Poller>,
    pub prices: Arc<Prices>,
    /// The maximum validity of a quote that promises a price.
    pub max_quote: Duration,
    pub bodies: BodyReader,
    pub bulk: Bulk,
    /// Tells a caller of its last create that was refused.
    pub refusals: Arc<Refusals>,
    /// Measures the age of a state.
    pub clock: Clock,
}

/// Hands creates to the paid stages and answers all other calls.
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
            Endpoint::Task => task::task(&self.handlers, call).await,
            Endpoint::Prices => prices::prices(&self.handlers, call).await,
            Endpoint::Me => me::me(&self.handlers, call).await,
            Endpoint::Content => content::erase_content(&self.handlers, call).await,
        };
        Ok(answer?)
    }
}

impl Handlers {
    /// A success with this body, which was made in this room.
    fn success_in(&self, room: Room, org: OrgId, body: Bytes) -> Result<Answer, GatewayError> {
        let body = self.bulk.answer_in(room, Payer::Org(org), body).ok_or(GatewayError::NoRoom)?;
        Ok(json_answer(StatusCode::OK, body))
    }

    /// A success with this body.
    fn success(&self, org: OrgId, body: impl Into<Bytes>) -> Result<Answer, GatewayError> {
        let body = self.bulk.answer(Payer::Org(org), body.into()).ok_or(GatewayError::NoRoom)?;
        Ok(json_answer(StatusCode::OK, body))
    }
}
