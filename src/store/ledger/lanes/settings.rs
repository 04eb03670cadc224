//! The settings of lanes and of their connections.

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::config::Profile;
use crate::store::db::session::Deadline;

#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// The number of lanes; each has its own connection.
    pub lanes: usize,
    /// The most items in one call.
    pub max_batch: usize,
    /// The most reservations that may wait in one lane.
    pub queue: usize,
    /// The time-out of a database call: the connection is then dropped and the same ids are sent again.
    pub call_timeout: Duration,
    /// A hold that is HELD for longer than this, and that its gateway does not work on, is swept.
    pub hold_grace: Duration,
    /// The most unfinished tasks of an organisation that has no cap of its own; 0: no cap.
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

/// The options of a lane's connection, for whichever server is the primary.
pub(super) fn lane_options(server: PgConnectOptions, settings: &LaneSettings) -> PgConnectOptions {
    server
        .application_name("tollgate-lane")
        // The two functions are planned once. The statistics of an empty table must not lead to a plan that scans the
        // table when it is full.
        .options([
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ])
        // The server's time-out is shorter than the time-out of the call: a call that waits for a locked row is then
        // rolled back for certain, and no backend is left waiting.
        .options([
            ("lock_timeout", format!("{}ms", settings.call_timeout.as_millis() / 2)),
            ("statement_timeout", Deadline::of_lane(settings.call_timeout).setting()),
        ])
        .disable_statement_logging()
}
