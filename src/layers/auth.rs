//! Who is calling. 401 is only for a definite "no"; if that cannot be known, 503 (contract, section 4).

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::header::AUTHORIZATION;
use moka::sync::Cache;
use tower::{Layer, Service};

use super::{LayerFuture, Stage};
use crate::api_key::PresentedKey;
use crate::call::{Authenticated, Call, Endpoint, Routed};
use crate::clock::Clock;
use crate::config::{Auth as AuthConfig, ms};
use crate::error::{Answer, GatewayError, Level};
use crate::ledger::{Database, FoundKey, LedgerError, Principal};
use crate::metrics as m;

/// Keys in memory are trusted for this long after the last proof that none of them has changed.
const TRUST: Duration = Duration::from_secs(5);

/// A key in memory.
#[derive(Debug, Clone)]
struct Known {
    /// Entries of an older generation count as absent. A fill that began before a revocation therefore cannot revive
    /// the key.
    generation: u64,
    /// When it expires, by this gateway's own monotonic clock.
    ends: Option<Instant>,
    key: Arc<FoundKey>,
}

/// The keys this gateway has seen, and how sure it is of them.
#[derive(Debug)]
pub struct Keys {
    database: Database,
    clock: Clock,
    cache: Cache<String, Known>,
    generation: AtomicU64,
    /// When it was last proved that the generation is current.
    confirmed: Mutex<Instant>,
    stale_max: Duration,
    failures: DefaultKeyedRateLimiter<IpAddr>,
}

impl Keys {
    /// An empty cache. `failures_per_minute` limits wrong credentials from one address.
    pub fn new(database: Database, config: &AuthConfig, failures_per_minute: u32, clock: Clock) -> Self {
        let quota = Quota::per_minute(NonZeroU32::new(failures_per_minute).unwrap_or(NonZeroU32::MAX));
        Self {
            database,
            clock,
            cache: Cache::new(config.cached_keys),
            generation: AtomicU64::new(0),
            confirmed: Mutex::new(clock.now()),
            stale_max: ms(config.stale_max_ms),
            failures: RateLimiter::keyed(quota),
        }
    }

    /// Everything in memory may be out of date: read again.
    pub fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// At `instant` it was known that nothing in memory was out of date.
    pub fn confirm(&self, instant: Instant) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = instant;
    }

    /// Forgets idle addresses.
    pub fn tidy(&self) {
        self.failures.retain_recent();
    }

    fn unconfirmed_for(&self) -> Duration {
        self.clock.since(*self.confirmed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn find(&self, public_id: &str, endpoint: Endpoint) -> Result<Option<Known>, LedgerError> {
        let generation = self.generation.load(Ordering::Acquire);
        let cached = self.cache.get(public_id).filter(|known| known.generation == generation);
        if let Some(known) = &cached
            && self.unconfirmed_for() < TRUST
        {
            return Ok(Some(known.clone()));
        }
        let asked = self.clock.now();
        match self.database.find_key(public_id).await {
            Ok(Some(key)) => {
                let ends = key.expires_in.and_then(|left| asked.checked_add(left));
                let known = Known { generation, ends, key: Arc::new(key) };
                self.cache.insert(public_id.to_owned(), known.clone());
                Ok(Some(known))
            }
            Ok(None) => Ok(None),
            // The database is away: a key in memory may still ask for the status of its tasks.
            Err(error) => cached
                .filter(|_| endpoint == Endpoint::Status && self.unconfirmed_for() < self.stale_max)
                .map(Some)
                .ok_or(error),
        }
    }

    /// Who that is, for the management API.
    pub async fn principal(
        &self,
        header: Option<&str>,
        peer: IpAddr,
    ) -> Result<Arc<Principal>, GatewayError> {
        self.authenticate(header, peer, Endpoint::Credits).await
    }

    async fn authenticate(
        &self,
        header: Option<&str>,
        peer: IpAddr,
        endpoint: Endpoint,
    ) -> Result<Arc<Principal>, GatewayError> {
        let Some(header) = header else {
            return Err(GatewayError::Unauthenticated("no API key: send 'Authorization: Bearer <key>'"));
        };
        let presented = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .and_then(|(_, token)| PresentedKey::parse(token.trim()));
        let Some(presented) = presented else {
            return Err(self.wrong(peer));
        };
        let found = self.find(&presented.public_id, endpoint).await?;
        let Some(found) =
            found.filter(|found| found.key.secret.matches(&presented.secret) && !found.key.revoked)
        else {
            return Err(self.wrong(peer));
        };
        let principal = found.key.principal.clone();
        if found.ends.is_some_and(|end| end <= self.clock.now()) {
            return Err(GatewayError::Unauthenticated("this API key has expired"));
        }
        if !principal.allows_address(peer) {
            return Err(GatewayError::NetworkNotAllowed);
        }
        Ok(principal)
    }

    /// Wrong credentials: counted against the address, which a valid key never is.
    pub fn wrong(&self, peer: IpAddr) -> GatewayError {
        match self.failures.check_key(&peer) {
            Ok(()) => GatewayError::Unauthenticated(
                "this API key is not valid: send 'Authorization: Bearer <key>' with a key that was not revoked",
            ),
            Err(not_until) => {
                metrics::counter!(m::LIMITED, "level" => Level::Address.as_str()).increment(1);
                let retry_after = not_until.wait_time_from(DefaultClock::default().now());
                GatewayError::RateLimited { level: Level::Address, retry_after }
            }
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    /// The keys.
    pub keys: Arc<Keys>,
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
    keys: Arc<Keys>,
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
            // Taken out: from here on the credentials are gone.
            let header = call.context.headers.remove(AUTHORIZATION);
            let header = header.as_ref().map(|value| value.to_str().unwrap_or_default());
            let principal = keys.authenticate(header, call.context.peer, endpoint).await?;
            call.context.notes.add(|notes| notes.principal = Some(principal.clone()));
            inner.call(call.advance(|_| Authenticated { endpoint, principal })).await
        })
    }
}
