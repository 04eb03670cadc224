//! Rate limits per minute: of the key, then of the user, then of the organisation, so that a call that is refused at a
//! narrower level uses up nothing at a wider one. Each gateway counts for itself.

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

use crate::call::Endpoint;
use crate::config::Limits;
use crate::error::{GatewayError, Level};
use crate::ids::KeyId;
use crate::metrics as m;
use crate::store::Principal;

type Limiter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// The limits and counters of the keys, users and organisations that called lately.
#[derive(Debug)]
pub struct RateLimits {
    defaults: Limits,
    limiters: Cache<(Level, Uuid, bool, NonZeroU32), Arc<Limiter>>,
    clock: DefaultClock,
}

impl RateLimits {
    /// Limits by default, without any call counted.
    pub fn new(defaults: Limits) -> Self {
        for level in [Level::Key, Level::User, Level::Org] {
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

    /// Counts one call. Returns the headers for its answer, which name the limit that is closest to being reached; an error
    /// if a limit is exceeded.
    pub fn admit(
        &self,
        principal: &Principal,
        endpoint: Endpoint,
    ) -> Result<Option<RateHeaders>, (GatewayError, RateHeaders)> {
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
        let mut tightest: Option<RateHeaders> = None;
        for (level, id, per_minute) in levels {
            // A caller with a JWT has no key, and so no limit of a key.
            let (Some(id), Some(per_minute)) = (id, NonZeroU32::new(per_minute)) else { continue };
            let limiter = self.limiters.get_with((level, id, create, per_minute), || {
                Arc::new(RateLimiter::direct(Quota::per_minute(per_minute)).with_middleware())
            });
            let headers = |remaining, reset| RateHeaders { level, per_minute, remaining, reset };
            match limiter.check() {
                Ok(state) => {
                    let remaining = state.remaining_burst_capacity();
                    if tightest.as_ref().is_none_or(|t| remaining < t.remaining) {
                        let refill = state.quota().replenish_interval();
                        tightest = Some(headers(
                            remaining,
                            refill.saturating_mul(per_minute.get().saturating_sub(remaining)),
                        ));
                    }
                }
                Err(not_until) => {
                    metrics::counter!(m::LIMITED, "level" => level.as_str()).increment(1);
                    let retry_after = not_until.wait_time_from(self.clock.now());
                    return Err((GatewayError::RateLimited { level, retry_after }, headers(0, retry_after)));
                }
            }
        }
        Ok(tightest)
    }
}

#[derive(Debug)]
pub struct RateHeaders {
    level: Level,
    per_minute: NonZeroU32,
    remaining: u32,
    reset: Duration,
}

impl RateHeaders {
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
