//! The only source of time: code gets a [`Clock`] handed in, and clippy bans the standard clocks.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

/// The clock of this process. Credits never depend on it: instants in the ledger come from the database's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

#[expect(clippy::disallowed_methods, reason = "this is the source of time the ban points to")]
impl Clock {
    /// The monotonic clock, for durations and deadlines.
    pub fn now(self) -> Instant {
        Instant::now()
    }

    /// The wall clock, for times that are only shown.
    pub fn wall(self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    /// How long ago `earlier` was.
    pub fn since(self, earlier: Instant) -> Duration {
        self.now().saturating_duration_since(earlier)
    }
}
