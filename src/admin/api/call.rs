//! What a handler of the management API is given: one admitted call, with all it may use as typed fields.
//!
//! A handler takes a [`ApiCall`] and nothing else, and [`Resource`](super::resource::Resource) is the only way to put it on a
//! path: there is no handler without a rule of who may call it, none that writes without an actor, and none that reads a
//! header or a parameter that its description does not name.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use time::Time;

use super::extract::Input;
use super::problem::Problem;
use super::rules::{AccessRule, caller};
use super::trace::panicked;
use super::{Api, conditions};
use crate::access::callers::Caller;
use crate::admin::figures::Figures;
use crate::bulk::{BulkWorkers, Payer};
use crate::call::Party;
use crate::clock::Clock;
use crate::config;
use crate::credits::Credits;
use crate::encryption::StoredSecrets;
use crate::layers::body::Coding;
use crate::price_cache::Prices;
use crate::rate_limits::{Limited, Manager};
use crate::store::{Acting, Actor, Contents, Database, SharedDatabase, StoreError, Turn};
use crate::telemetry::carry;
use crate::upstream::Upstream;

/// A call whose caller may make it: authenticated, and admitted by the rule of the operation.
pub(super) struct ApiCall<H, P = (), I = ()> {
    pub(super) caller: Caller,
    /// The database; the kind of handle says whether this call may write.
    pub(super) database: H,
    /// The parameters of the path.
    pub(super) path: P,
    /// What the caller sent beside the path: query, headers, body.
    pub(super) input: I,
    /// The exposure of an organisation in a day at which its creates are stopped; 0: no limit.
    pub(super) max_exposure: Credits,
    /// Where people find the console, for links to it.
    pub(super) console: Arc<config::Console>,
    /// Encrypts secrets that are stored.
    pub(super) secrets: StoredSecrets,
    /// What the vendor said about tasks: forgetting a user may erase it.
    pub(super) contents: Contents,
    pub(super) vendor: Vendor,
    /// What the metrics of this gateway say.
    pub(super) figures: Figures,
    /// For an answer that is still being made when the handler has returned.
    pub(super) turns: FurtherTurns,
}

/// Further turns of a caller at the database. The first one ends with its handler.
#[derive(Clone)]
pub(super) struct FurtherTurns {
    database: SharedDatabase<Party>,
    owner: Party,
}

impl FurtherTurns {
    /// One more turn, which ends when it is dropped: it must not be kept while a client reads.
    pub(super) async fn take(&self) -> Result<Turn<Party>, StoreError> {
        self.database.turn_of(self.owner).await
    }
}

/// What a call needs that compares with what the vendor says.
#[derive(Clone)]
pub(super) struct Vendor {
    pub(super) upstream: Arc<Upstream>,
    pub(super) prices: Arc<Prices>,
    /// Parses what is large.
    pub(super) workers: BulkWorkers,
}

/// A call that only reads.
pub(super) type ReadCall<P = (), I = ()> = ApiCall<Database, P, I>;

/// A call that may change something, on behalf of its caller.
pub(super) type WriteCall<P = (), I = ()> = ApiCall<Acting, P, I>;

/// The kinds of database handles.
pub(super) trait Handle: Send + 'static {
    /// Calls that write are refused to suspended callers, and run to their end even if the caller leaves.
    const WRITES: bool;

    fn of(database: &Database, actor: Actor) -> Self;
}

impl Handle for Database {
    const WRITES: bool = false;

    fn of(database: &Database, _: Actor) -> Self {
        database.clone()
    }
}

impl Handle for Acting {
    const WRITES: bool = true;

    fn of(database: &Database, actor: Actor) -> Self {
        database.acting(actor)
    }
}

/// Whose bytes the body of a call is.
fn payer(caller: &Caller) -> Payer {
    caller.org().map_or(Payer::Operators, Payer::Org)
}

/// Why a call has no turn at the database: nothing was done yet.
pub(super) fn no_turn(error: StoreError) -> Problem {
    match error {
        StoreError::Timeout | StoreError::QueueFull => Problem::Busy,
        other => other.into(),
    }
}

/// Authenticates the caller of a request, counts the call against its rate limit, and answers it.
pub(super) async fn answer<H, P, I, F, R>(
    api: Api,
    rule: Arc<AccessRule>,
    request: Request,
    handler: impl Fn(ApiCall<H, P, I>) -> F + Send + Sync,
) -> Result<Response, Problem>
where
    H: Handle,
    P: DeserializeOwned + Send,
    I: Input,
    F: Future<Output = R> + Send + 'static,
    R: IntoResponse,
{
    let (parts, body) = request.into_parts();
    let caller = caller(&api, &parts).await?;
    let (bulk, payer) = (api.bodies.bulk.clone(), payer(&caller));
    let (answer, rate) = match api.limits.admit_management(Manager::of(&caller)) {
        Ok(rate) => (handle(api, rule, caller, parts, body, handler).await, rate),
        Err(Limited { level, retry_after, headers }) => {
            let (level, per_minute) = (level.as_str(), headers.per_minute());
            (Err(Problem::TooManyCalls { level, per_minute, retry_after }), Some(headers))
        }
    };
    let mut answer = answer.unwrap_or_else(Problem::into_response);
    // What a change answers is short; and that it was made must be told.
    if !H::WRITES {
        answer = bulk.held(payer, answer).await.unwrap_or_else(|| Problem::Busy.into_response());
    }
    if let Some(rate) = rate {
        rate.add_to(answer.headers_mut());
    }
    Ok(answer)
}

/// Admits a call, reads what the handler asks for, and answers with what the handler says.
async fn handle<H, P, I, F, R>(
    api: Api,
    rule: Arc<AccessRule>,
    caller: Caller,
    mut parts: Parts,
    body: Body,
    handler: impl Fn(ApiCall<H, P, I>) -> F + Send + Sync,
) -> Result<Response, Problem>
where
    H: Handle,
    P: DeserializeOwned + Send,
    I: Input,
    F: Future<Output = R> + Send + 'static,
    R: IntoResponse,
{
    let actor = rule.admit(&api, &caller, &mut parts, H::WRITES).await?;
    // The body is read here, before anything is changed: a caller that is still sending must not delay a shutdown.
    let body = if I::HAS_BODY {
        let coding = Coding::of(&parts.headers)?;
        Some(api.bodies.read(body, coding, payer(&caller)).await?)
    } else {
        None
    };
    let bytes = body.as_ref().map_or_else(Bytes::new, |body| body.bytes.clone());
    conditions::check(&parts.headers)?;
    let input = I::read(&parts, &bytes)?;
    if H::WRITES && !rule.only_removes() {
        count_change(&api, &caller).await?;
    }
    let mut further = conditions::further_versions(&parts);
    // Without a list of versions, which is rare, the body has been read for good.
    let again = (further.len() > 0).then_some((body, bytes));
    let mut answer = attempt(&api, &caller, &actor, &mut parts, input, &handler).await?;
    if let Some((_body, bytes)) = again {
        while answer.status() == StatusCode::PRECONDITION_FAILED
            && let Some(version) = further.next()
        {
            conditions::attempt(&mut parts, version);
            let input = I::read(&parts, &bytes)?;
            answer = attempt(&api, &caller, &actor, &mut parts, input, &handler).await?;
        }
    }
    conditions::unless_known(&parts, answer)
}

/// Counts a change that somebody of an organisation asks for. Operators are not counted.
async fn count_change(api: &Api, caller: &Caller) -> Result<(), Problem> {
    let Caller::Tenant(principal) = caller else { return Ok(()) };
    let turn = api.database.turn_of(caller.party()).await.map_err(no_turn)?;
    turn.count_change(principal.org).await?.map_err(|most| {
        let now = Clock.wall();
        let of_today = now - now.replace_time(Time::MIDNIGHT);
        let left = time::Duration::DAY - of_today;
        Problem::TooManyChanges { most, retry_after: left.try_into().unwrap_or_default() }
    })
}

/// Answers an admitted call whose body has arrived.
async fn attempt<H, P, I, F, R>(
    api: &Api,
    caller: &Caller,
    actor: &Actor,
    parts: &mut Parts,
    input: I,
    handler: &(impl Fn(ApiCall<H, P, I>) -> F + Sync),
) -> Result<Response, Problem>
where
    H: Handle,
    P: DeserializeOwned + Send,
    I: Input,
    F: Future<Output = R> + Send + 'static,
    R: IntoResponse,
{
    let path = axum::extract::Path::from_request_parts(parts, &())
        .await
        .map_err(|error| Problem::NotFound(format!("the path: {}", error.body_text())))?;
    let turns = FurtherTurns { database: api.database.clone(), owner: caller.party() };
    let turn = turns.take().await.map_err(no_turn)?;
    let call = ApiCall {
        caller: caller.clone(),
        database: H::of(&turn, actor.clone()),
        path: path.0,
        input,
        max_exposure: api.max_exposure,
        console: api.console.clone(),
        secrets: api.secrets.clone(),
        contents: api.contents.clone(),
        vendor: Vendor {
            upstream: api.upstream.clone(),
            prices: api.prices.clone(),
            workers: api.bodies.bulk.workers.clone(),
        },
        figures: api.figures.clone(),
        turns,
    };
    let work = handler(call);
    let answered = async move {
        let answer = work.await.into_response();
        drop(turn);
        answer
    };
    if !H::WRITES {
        return Ok(answered.await);
    }
    // A task of its own, so that a caller that leaves cannot cut a change in two.
    api.tasks.spawn(carry(answered)).await.or_else(|error| match error.try_into_panic() {
        Ok(panic) => Ok(panicked(panic)),
        Err(_) => Err(Problem::Internal),
    })
}
