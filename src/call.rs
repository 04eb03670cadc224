//! A call on its way through the stack. Each stage has a type of its own, made by the stage above it, so that a missing
//! or swapped stage does not compile.

mod body;

pub use self::body::RequestBody;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;

use crate::ids::HoldId;
use crate::order::Order;
use crate::store::{Fingerprint, HoldGuard, Principal};
use crate::strict::{self, GivenTwice};
use crate::upstream::Permit;

/// What the data plane offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Generate,
    Status,
    Quote,
    Credits,
    Tasks,
}

impl Endpoint {
    pub const ALL: [Self; 5] = [Self::Generate, Self::Status, Self::Quote, Self::Credits, Self::Tasks];

    /// Its name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Status => "status",
            Self::Quote => "quote",
            Self::Credits => "credits",
            Self::Tasks => "tasks",
        }
    }

    pub const fn path(self) -> &'static str {
        match self {
            Self::Generate => "/api/generate",
            Self::Status => "/api/status",
            Self::Quote => "/api/quote",
            Self::Credits => "/api/credits",
            Self::Tasks => "/api/tasks",
        }
    }

    /// Its method and path.
    pub const fn described(self) -> &'static str {
        match self {
            Self::Generate => "POST /api/generate",
            Self::Status => "GET /api/status",
            Self::Quote => "POST /api/quote",
            Self::Credits => "GET /api/credits",
            Self::Tasks => "GET /api/tasks",
        }
    }
}

/// A call at stage `S`.
#[derive(Debug)]
pub struct Call<S> {
    /// What its head says. Boxed, because the call is moved from stage to stage.
    pub context: Box<Context>,
    /// Its body; empty after the stage that reads it.
    pub body: RequestBody,
    /// What the stages above have found out.
    pub stage: S,
}

impl<S> Call<S> {
    /// The same call at the next stage.
    pub fn advance<T>(self, next: impl FnOnce(S) -> T) -> Call<T> {
        Call { context: self.context, body: self.body, stage: next(self.stage) }
    }
}

/// What the head of a request says.
#[derive(Debug, Clone)]
pub struct Context {
    pub method: http::Method,
    /// Path, duplicate slashes collapsed.
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// The caller's address; behind trusted proxies the one they tell.
    pub peer: IpAddr,
    pub arrived: Instant,
    /// What the stages add to its log event.
    pub notes: Notes,
}

impl Context {
    /// The names of all query parameters.
    pub fn parameter_names(&self) -> impl Iterator<Item = String> {
        url::form_urlencoded::parse(self.query.as_bytes()).map(|(key, _)| key.into_owned())
    }

    /// The value of a query parameter that may be given once.
    pub fn parameter(&self, name: &str) -> Result<Option<String>, GivenTwice> {
        strict::single_parameter(&self.query, name)
    }
}

/// What the stages add to a call's one log event. What an answer says travels with the answer.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<NoteFields>>);

/// The fields of [`Notes`].
#[derive(Debug, Default, Clone)]
pub struct NoteFields {
    /// Which endpoint, once routed.
    pub endpoint: Option<Endpoint>,
    pub principal: Option<Arc<Principal>>,
    /// The hold, once granted.
    pub hold: Option<HoldId>,
    /// The error's code, if it ends in one.
    pub code: Option<&'static str>,
    /// How long it waited for others: for the upstream, for the client's body.
    pub waited: Duration,
}

impl Notes {
    pub fn add(&self, add: impl FnOnce(&mut NoteFields)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes what was noted.
    pub fn take(&self) -> NoteFields {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Read, not yet routed.
#[derive(Debug)]
pub struct Arrived;

/// The path and method lead somewhere.
#[derive(Debug)]
pub struct Routed {
    pub endpoint: Endpoint,
}

/// The caller is who it says.
#[derive(Debug)]
pub struct Authenticated {
    pub endpoint: Endpoint,
    pub principal: Arc<Principal>,
}

/// Within its rate limits.
#[derive(Debug)]
pub struct Admitted {
    pub endpoint: Endpoint,
    pub principal: Arc<Principal>,
}

/// A create that is no replay of an earlier one.
#[derive(Debug)]
pub struct Fresh {
    pub principal: Arc<Principal>,
    pub raw: Bytes,
    /// What identifies the body.
    pub fingerprint: Fingerprint,
    /// The caller's idempotency key.
    pub idempotency_key: Option<Arc<str>>,
    /// The caller says it knows that the same body is in doubt.
    pub resend: bool,
}

/// A valid create with its price.
#[derive(Debug)]
pub struct Priced {
    /// The create as it came.
    pub fresh: Fresh,
    /// What goes upstream, and what it costs.
    pub order: Order,
}

/// A create whose credits are held and that has its place with the vendor. Only the reserve layer makes one: nothing
/// can be forwarded unpaid, or without a place.
#[derive(Debug)]
#[must_use = "a held call that is dropped releases its hold"]
pub struct Held {
    order: Order,
    guard: HoldGuard,
    permit: Permit,
}

impl Held {
    pub(crate) fn new(order: Order, guard: HoldGuard, permit: Permit) -> Self {
        Self { order, guard, permit }
    }

    /// What is to be sent, the hold that pays for it, and the leave to send it.
    pub fn into_parts(self) -> (Order, HoldGuard, Permit) {
        (self.order, self.guard, self.permit)
    }
}
