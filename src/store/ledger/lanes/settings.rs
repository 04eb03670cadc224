//! How lanes work, and what their connections are like.

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::config::Profile;
use crate::store::db::session::Deadline;

#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// Number of lanes, each with its own connection.
    pub lanes: usize,
    /// Items in one call, at most.
    pub max_batch: usize,
    /// Reservations that may wait in one lane.
    pub queue: usize,
    /// A database call that takes longer is given up; its connection is dropped and the same ids are sent again.
    pub call_timeout: Duration,
    /// A hold that is still HELD after this, and that its gateway does not work on, is swept.
    pub hold_grace: Duration,
    /// Unfinished tasks of an organisation that has no cap of its own; 0 is no cap.
    pub max_open_tasks: i32,
    /// How a batch is made durable.
    pub profile: Profile,
}

impl Default for LaneSettings {
    fn default() -> Self {
        Self {
            lanes: 4,
            max_batch: 256,
            queue: 4096,
            call_timeout: Duration::from_secs(10),
            hold_grace: Duration::from_secs(30),
            max_open_tasks: 0,
            profile: Profile::default(),
        }
    }
}

/// What a lane's connection is like, whichever server it leads to.
pub(super) fn lane_options(server: PgConnectOptions, settings: &LaneSettings) -> PgConnectOptions {
    server
        .application_name("tollgate-lane")
        // The two functions are planned once. Statistics of an empty table must not lead to a plan that scans.
        .options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
            ("jit", "off"),
        ])
        // Before the call's own deadline: a call that waits for a row somebody else has locked is rolled back for
        // sure, and leaves no backend behind that waits on.
        .options([
            ("lock_timeout", format!("{}ms", settings.call_timeout.as_millis() / 2)),
            ("statement_timeout", Deadline::of_lane(settings.call_timeout).setting()),
        ])
        .disable_statement_logging()
}
