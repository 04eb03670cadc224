//! The simulator's own clock.
//!
//! Wall time, not monotonic time: a task's end is written to the state file, and a simulator that comes
//! back after an hour must find the tasks of before finished.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Millis(i64);

impl Millis {
    #[expect(clippy::disallowed_methods, reason = "the one place where the simulator reads the time")]
    pub(super) fn now() -> Millis {
        let nanos = OffsetDateTime::now_utc().unix_timestamp_nanos();
        Millis(i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX))
    }

    pub(super) fn plus(self, ms: u64) -> Millis {
        Millis(self.0.saturating_add_unsigned(ms))
    }

    /// As the vendor writes times: `2026-02-05T10:30:00Z`.
    pub(super) fn to_rfc3339(self) -> String {
        OffsetDateTime::from_unix_timestamp(self.0.div_euclid(1000))
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_look_like_the_vendors() {
        assert_eq!(Millis(1_770_287_400_999).to_rfc3339(), "2026-02-05T10:30:00Z");
    }

    #[test]
    fn a_task_time_beyond_the_end_of_time_is_forever() {
        assert_eq!(Millis(5).plus(u64::MAX), Millis(i64::MAX));
    }
}
