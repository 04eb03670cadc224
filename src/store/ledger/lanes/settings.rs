//! The settings of lanes and of their connections.

use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::config::Profile;
use crate::credits::Credits;
use crate::store::db::session::Deadline;

/// The number of side lanes of a gateway.
pub const SIDE_LANES: usize = 4;

/// How often a step that is set aside is tried again.
pub const RETRY_ASIDE: Duration = Duration::from_secs(60);

/// The longest time that a call waits for a lock. A lane waits for no balance row, and a side lane tries again: it shall
/// not be kept from other organisations for long.
const LOCK_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// The number of lanes; each has its own connection.
    pub lanes: usize,
    /// The number of side lanes, which all lanes share; each has its own connection.
    pub side_lanes: usize,
    /// The most items in one call.
    pub max_batch: usize,
    /// The most reservations that may wait in one lane; an organisation gets at most half of the places that are free.
    pub queue: usize,
    /// The time-out of a database call: the connection is then dropped and the same ids are sent again.
    pub call_timeout: Duration,
    /// How often a step that is set aside is tried again.
    pub retry_aside: Duration,
    /// A hold that is HELD for longer than this, and that its gateway does not work on, is swept.
    pub hold_grace: Duration,
    /// The most unfinished tasks of an organisation that has no cap of its own; 0: no cap.
    pub max_open_tasks: i32,
    /// The exposure of an organisation in a day at which its creates are stopped; 0: no limit.
    pub max_exposure: Credits,
    /// How a batch is made durable.
    pub profile: Profile,
}

impl Default for LaneSettings {
    fn default() -> Self {
        Self {
            lanes: 4,
            side_lanes: SIDE_LANES,
            max_batch: 256,
            queue: 4096,
            call_timeout: Duration::from_secs(10),
            retry_aside: RETRY_ASIDE,
            hold_grace: Duration::from_secs(30),
            max_open_tasks: 0,
            max_exposure: Credits::ZERO,
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
            ("lock_timeout", format!("{}ms", (settings.call_timeout / 2).min(LOCK_WAIT).as_millis())),
            ("statement_timeout", Deadline::of_lane(settings.call_timeout).setting()),
            // Not an argument: a function that gateways of other versions call keeps its arguments.
            ("tollgate.max_exposure_per_day", settings.max_exposure.to_string()),
            // We know the verdicts that a repetition of an unanswered create gets.
            ("tollgate.attaches", "on".to_owned()),
        ])
        .disable_statement_logging()
}
