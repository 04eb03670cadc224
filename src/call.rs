//! A call on its way through the stack. Each stage makes a call of the type that the stage below requires, so that a
//! missing or swapped stage does not compile.

mod body;
mod peer;

pub use self::body::{ReadBody, RequestBody};
pub use self::peer::{Network, NoRoom, Party, Peer, RequestInProgress};

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Extensions, HeaderMap};

use crate::ids::HoldId;
use crate::order::{Excerpt, Order};
use crate::store::{Fingerprint, HoldGuard, Principal};
use crate::strict::{self, BadHost, GivenTwice};
use crate::upstream::Permit;

/// An endpoint of the data plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Generate,
    Status,
    Quote,
    Credits,
    Tasks,
    Task,
    Content,
    Prices,
    Me,
}

impl Endpoint {
    pub const ALL: [Self; 9] = [
        Self::Generate,
        Self::Status,
        Self::Quote,
        Self::Credits,
        Self::Tasks,
        Self::Task,
        Self::Content,
        Self::Prices,
        Self::Me,
    ];

    /// The endpoint's name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Status => "status",
            Self::Quote => "quote",
            Self::Credits => "credits",
            Self::Tasks => "tasks",
            Self::Task => "task",
            Self::Content => "content",
            Self::Prices => "prices",
            Self::Me => "me",
        }
    }

    pub const fn path(self) -> &'static str {
        match self {
            Self::Generate => "/api/generate",
            Self::Status => "/api/status",
            Self::Quote => "/api/quote",
            Self::Credits => "/api/credits",
            Self::Tasks => "/api/tasks",
            Self::Task => "/api/tasks/{task_id}",
            Self::Content => "/api/tasks/{task_id}/content",
            Self::Prices => "/api/prices",
            Self::Me => "/api/me",
        }
    }

    /// The endpoint's method and path, as the name of its spans.
    pub const fn described(self) -> &'static str {
        match self {
            Self::Generate => "POST /api/generate",
            Self::Status => "GET /api/status",
            Self::Quote => "POST /api/quote",
            Self::Credits => "GET /api/credits",
            Self::Tasks => "GET /api/tasks",
            Self::Task => "GET /api/tasks/{task_id}",
            Self::Content => "DELETE /api/tasks/{task_id}/content",
            Self::Prices => "GET /api/prices",
            Self::Me => "GET /api/me",
        }
    }
}

/// A call that has reached the stage `S`.
#[derive(Debug)]
pub struct Call<S> {
    /// The head of the request. Boxed, because the call is moved from stage to stage.
    pub context: Box<Context>,
    /// The body of the request; empty after the stage that reads it.
    pub body: RequestBody,
    /// What the stages above have established.
    pub stage: S,
}

impl<S> Call<S> {
    /// Makes this a call of the next stage.
    pub fn advance<T>(self, next: impl FnOnce(S) -> T) -> Call<T> {
        Call { context: self.context, body: self.body, stage: next(self.stage) }
    }
}

/// The head of a request, and what belongs to the request as a whole.
#[derive(Debug, Clone)]
pub struct Context {
    pub method: http::Method,
    /// Whether the request names the one host that it is for.
    pub host: Result<(), BadHost>,
    /// The path, with repeated slashes collapsed and without a slash at its end.
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// What the program itself adds to a request: its connection, and the caller that the console has signed in.
    pub extensions: Extensions,
    /// The connection that the request arrived on.
    pub connection: Peer,
    /// The caller's address; behind a trusted proxy, the one that the proxy names.
    pub peer: IpAddr,
    pub arrived: Instant,
    /// What the stages add to the request's log event.
    pub notes: Notes,
}

impl Context {
    /// The names of all query parameters.
    pub fn parameter_names(&self) -> impl Iterator<Item = String> {
        url::form_urlencoded::parse(self.query.as_bytes()).map(|(key, _)| key.into_owned())
    }

    /// The value of a query parameter; an error if it is given twice.
    pub fn parameter(&self, name: &str) -> Result<Option<String>, GivenTwice> {
        strict::single_parameter(&self.query, name)
    }
}

/// What the stages add to the log event of a call. Headers of the answer do not belong here.
#[derive(Debug, Clone, Default)]
pub struct Notes(Arc<Mutex<NoteFields>>);

/// The fields that [`Notes`] collects.
#[derive(Debug, Default, Clone)]
pub struct NoteFields {
    /// The endpoint, once the call is routed.
    pub endpoint: Option<Endpoint>,
    pub principal: Option<Arc<Principal>>,
    /// The hold, once it is granted.
    pub hold: Option<HoldId>,
    /// The error's code, if the call ends in an error.
    pub code: Option<&'static str>,
    /// Time spent waiting for the vendor and for the client's body.
    pub waited: Duration,
}

impl Notes {
    pub fn add(&self, add: impl FnOnce(&mut NoteFields)) {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes the collected fields, and leaves empty ones.
    pub fn take(&self) -> NoteFields {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A call whose head was read; not yet routed.
#[derive(Debug)]
pub struct Arrived;

/// A call for a known endpoint.
#[derive(Debug)]
pub struct Routed {
    pub endpoint: Endpoint,
}

/// A call of an authenticated caller.
#[derive(Debug)]
pub struct Authenticated {
    pub endpoint: Endpoint,
    pub principal: Arc<Principal>,
}

/// A call within its rate limits.
#[derive(Debug)]
pub struct Admitted {
    pub endpoint: Endpoint,
    pub principal: Arc<Principal>,
}

/// A create that is not a replay of an earlier one.
#[derive(Debug)]
pub struct Fresh {
    pub create: NewCreate,
    /// The body as it came.
    pub body: ReadBody,
}

/// What is known of a create besides its body.
#[derive(Debug)]
pub struct NewCreate {
    pub principal: Arc<Principal>,
    /// The SHA-256 of the raw body.
    pub fingerprint: Fingerprint,
    /// The caller's idempotency key.
    pub idempotency_key: Option<Arc<str>>,
    /// Whether to create even if an earlier create of the same body is in doubt, or unanswered although its caller has gone.
    pub resend: bool,
    /// Whether content is kept after the task has ended.
    pub keeps_content: bool,
}

/// A valid create with its price.
#[derive(Debug)]
pub struct Priced {
    pub create: NewCreate,
    /// The body to be sent, and its price.
    pub order: Order,
    /// What is kept of the body while the task is unfinished.
    pub excerpt: Box<Excerpt>,
}

/// The caller of a create without an idempotency key, while it waits for its answer. Dropped before the answer: it has gone.
pub trait Attended: fmt::Debug + Send {
    /// The caller has gone, or may have.
    fn leaves(&mut self);

    /// The caller gets its answer now.
    fn got_answer(self: Box<Self>);
}

/// A create with a hold and a permit. Only the reserve stage makes one, so nothing can be forwarded without both.
#[derive(Debug)]
#[must_use = "a held call that is dropped releases its hold"]
pub struct Held {
    order: Order,
    excerpt: Box<Excerpt>,
    guard: HoldGuard,
    permit: Permit,
    keeps_content: bool,
    caller: Option<Box<dyn Attended>>,
}

impl Held {
    /// `caller`: none, if an idempotency key finds the create again.
    pub(crate) fn new(
        priced: Priced,
        guard: HoldGuard,
        permit: Permit,
        caller: Option<Box<dyn Attended>>,
    ) -> Self {
        let Priced { create, order, excerpt } = priced;
        Self { order, excerpt, guard, permit, keeps_content: create.keeps_content, caller }
    }

    /// Takes out the caller who waits for the answer, if the create has no idempotency key.
    pub fn take_caller(&mut self) -> Option<Box<dyn Attended>> {
        self.caller.take()
    }

    /// The order to send, its excerpt, the hold that pays for it, the permit to send it, and whether content is kept after the
    /// end.
    pub fn into_parts(self) -> (Order, Box<Excerpt>, HoldGuard, Permit, bool) {
        (self.order, self.excerpt, self.guard, self.permit, self.keeps_content)
    }
}
