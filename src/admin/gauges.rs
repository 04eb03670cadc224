//! Metrics that are set when Prometheus scrapes. All values are in memory, so that a scrape never waits.

use std::sync::Arc;

use metrics_process::Collector;

use crate::access::callers::Authenticator;
use crate::call::Party;
use crate::ids::OrgId;
use crate::metrics as m;
use crate::poll::Poller;
use crate::rate_limits::RateLimits;
use crate::store::{Database, Lease, SharedDatabase};
use crate::upstream::Upstream;

/// The parts whose state is shown as metrics.
pub struct Gauges {
    /// The connection pool of the data plane.
    pub callers: SharedDatabase<OrgId>,
    /// The connection pool of the management API.
    pub management: SharedDatabase<Party>,
    /// The connection pool of background jobs.
    pub upkeep: Database,
    /// The connection pool of the lease.
    pub lease_pool: Database,
    pub lease: Arc<Lease>,
    pub authenticator: Arc<Authenticator>,
    pub limits: Arc<RateLimits>,
    pub poller: Arc<Poller>,
    pub upstream: Arc<Upstream>,
    /// Memory, file descriptors and CPU time of this process.
    pub process: Collector,
}

impl Gauges {
    pub(super) fn show(&self) {
        self.callers.show_pool("callers");
        self.management.show_pool("management");
        self.upkeep.show_pool("upkeep");
        self.lease_pool.show_pool("lease");
        // All pools follow the same servers.
        metrics::counter!(m::PRIMARY_CHANGES).absolute(self.upkeep.primary_changes());
        metrics::counter!(m::LOG_LINES_DROPPED).absolute(crate::log_queue::dropped_lines());
        metrics::gauge!(m::LEASE_HELD).set(u8::from(self.lease.holds()));
        self.authenticator.show();
        self.limits.show();
        self.poller.show();
        self.upstream.show_accounts();
        self.process.collect();
    }
}
