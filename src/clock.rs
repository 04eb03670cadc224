//! The one source of time. Everything else is handed a [`Clock`]; clippy bans the standard ones.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

/// Tells the time. Money never depends on the wall clock of a gateway: instants that matter come from Postgres.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

#[expect(clippy::disallowed_methods, reason = "this is the source of time the ban points to")]
impl Clock {
    /// The monotonic clock, for durations and deadlines.
    pub fn now(self) -> Instant {
        Instant::now()
    }

    /// The wall clock, for what people read.
    pub fn wall(self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    /// How long ago `earlier` was.
    pub fn since(self, earlier: Instant) -> Duration {
        self.now().saturating_duration_since(earlier)
    }
}
