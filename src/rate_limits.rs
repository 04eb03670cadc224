//! Rate limits per minute: of the key, then of the user, then of the organisation, so that a call that is refused at a
//! narrower level uses up nothing at a wider one. Calls of the management API are counted by organisation and by operator.
//! Each gateway counts for itself.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use http::{HeaderMap, HeaderName, HeaderValue};
use moka::sync::Cache;
use uuid::Uuid;

use crate::access::callers::Caller;
use crate::call::Endpoint;
use crate::config::Limits;
use crate::error::Level;
use crate::ids::{KeyId, OrgId};
use crate::metrics as m;
use crate::store::Principal;

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// Calls that are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Calls {
    Creates,
    /// All other calls of the data plane.
    Others,
    Management,
}

/// Whose calls are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum CountedFor {
    Id(Uuid),
    /// An operator, by its name in the audit log.
    Operator(Box<str>),
}

/// Who calls the management API.
#[derive(Debug, Clone, Copy)]
pub enum Manager<'a> {
    Org(OrgId),
    /// An operator, by its name in the audit log.
    Operator(&'a str),
}

impl<'a> Manager<'a> {
    pub fn of(caller: &'a Caller) -> Self {
        match caller {
            Caller::Tenant(principal) => Self::Org(principal.org),
            Caller::Operator(operator) => Self::Operator(&operator.name),
        }
    }
}

/// A call that is refused: its limit was reached at `level`.
#[derive(Debug)]
pub struct Limited {
    pub level: Level,
    pub retry_after: Duration,
    pub headers: RateHeaders,
}

/// The limits and counters of those who called lately.
#[derive(Debug)]
pub struct RateLimits {
    defaults: Limits,
    limiters: Cache<(Level, CountedFor, Calls, NonZeroU32), Arc<Limiter>>,
    clock: DefaultClock,
}

impl RateLimits {
    /// Limits by default, without any call counted.
    pub fn new(defaults: Limits) -> Self {
        for level in [Level::Key, Level::User, Level::Org, Level::Operator] {
            metrics::counter!(m::LIMITED, "level" => level.as_str()).increment(0);
        }
        // A limiter that was idle for more than its minute is full again: forgetting it changes nothing.
        let limiters = Cache::builder().max_capacity(200_000).time_to_idle(Duration::from_secs(120)).build();
        Self { defaults, limiters, clock: DefaultClock::default() }
    }

    /// Sets the metric of the number of limiters in memory.
    pub fn show(&self) {
        metrics::gauge!(m::CACHE_ENTRIES, "cache" => "limiters").set(self.limiters.entry_count() as f64);
    }

    /// Counts one call of the data plane. Returns the headers for its answer, which name the limit that is closest to
    /// being reached; an error if a limit is exceeded.
    pub fn admit(&self, principal: &Principal, endpoint: Endpoint) -> Result<Option<RateHeaders>, Limited> {
        let create = endpoint == Endpoint::Generate;
        let d = &self.defaults;
        let pick = |create_limit: u32, status_limit: u32| if create { create_limit } else { status_limit };
        let own = |rates: crate::store::Rates| if create { rates.create } else { rates.status };
        let levels = [
            (
                Level::Key,
                principal.key.map(KeyId::as_uuid),
                own(principal.key_rates).unwrap_or(pick(d.key_create_per_minute, d.key_status_per_minute)),
            ),
            (
                Level::User,
                Some(principal.user.as_uuid()),
                pick(d.user_create_per_minute, d.user_status_per_minute),
            ),
            (
                Level::Org,
                Some(principal.org.as_uuid()),
                own(principal.org_rates).unwrap_or(pick(d.org_create_per_minute, d.org_status_per_minute)),
            ),
        ];
        let calls = if create { Calls::Creates } else { Calls::Others };
        let mut tightest: Option<RateHeaders> = None;
        for (level, id, per_minute) in levels {
            // A caller with a JWT has no key, and so no limit of a key.
            let Some(id) = id else { continue };
            if let Some(state) = self.count(level, CountedFor::Id(id), calls, per_minute)?
                && tightest.as_ref().is_none_or(|t| state.remaining < t.remaining)
            {
                tightest = Some(state);
            }
        }
        Ok(tightest)
    }

    /// Counts one call of the management API in the same way.
    pub fn admit_management(&self, manager: Manager<'_>) -> Result<Option<RateHeaders>, Limited> {
        let (level, counted, per_minute) = match manager {
            Manager::Org(org) => {
                (Level::Org, CountedFor::Id(org.as_uuid()), self.defaults.org_management_per_minute)
            }
            Manager::Operator(name) => (
                Level::Operator,
                CountedFor::Operator(name.into()),
                self.defaults.operator_management_per_minute,
            ),
        };
        self.count(level, counted, Calls::Management, per_minute)
    }

    /// Counts one call at one level; nothing if there is no limit.
    fn count(
        &self,
        level: Level,
        counted: CountedFor,
        calls: Calls,
        per_minute: u32,
    ) -> Result<Option<RateHeaders>, Limited> {
        let Some(per_minute) = NonZeroU32::new(per_minute) else { return Ok(None) };
        let limiter = self.limiters.get_with((level, counted, calls, per_minute), || {
            Arc::new(RateLimiter::direct(Quota::per_minute(per_minute)).with_middleware())
        });
        let headers = |remaining, reset| RateHeaders { level, per_minute, remaining, reset };
        match limiter.check() {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let refill = state.quota().replenish_interval();
                let reset = refill.saturating_mul(per_minute.get().saturating_sub(remaining));
                Ok(Some(headers(remaining, reset)))
            }
            Err(not_until) => {
                metrics::counter!(m::LIMITED, "level" => level.as_str()).increment(1);
                let retry_after = not_until.wait_time_from(self.clock.now());
                Err(Limited { level, retry_after, headers: headers(0, retry_after) })
            }
        }
    }
}

/// What is left of a limit, for the headers of an answer.
#[derive(Debug)]
pub struct RateHeaders {
    level: Level,
    per_minute: NonZeroU32,
    remaining: u32,
    reset: Duration,
}

impl RateHeaders {
    /// How many calls the limit allows in a minute.
    pub fn per_minute(&self) -> u32 {
        self.per_minute.get()
    }

    /// Adds `RateLimit-Policy` and `RateLimit` to the headers of an answer.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        let level = self.level.as_str();
        let policy = format!("\"{level}\";q={};w=60", self.per_minute);
        let state = format!("\"{level}\";r={};t={}", self.remaining, self.reset.as_secs_f64().ceil() as u64);
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        headers.insert(HeaderName::from_static("ratelimit-policy"), value(policy));
        headers.insert(HeaderName::from_static("ratelimit"), value(state));
    }
}
