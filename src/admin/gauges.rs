//! What is looked at when the metrics are asked for. All of it is in memory: a scrape waits for nobody.

use std::sync::Arc;

use metrics_process::Collector;

use crate::access::callers::Keys;
use crate::metrics as m;
use crate::poll::Poller;
use crate::rate_limits::RateLimits;
use crate::store::{Database, Lease};
use crate::upstream::Upstream;

/// See the module.
pub struct Gauges {
    /// The pool of those who call.
    pub callers: Database,
    /// The pool of what nobody waits for.
    pub upkeep: Database,
    /// This gateway's lease.
    pub lease: Arc<Lease>,
    /// Who may call.
    pub keys: Arc<Keys>,
    /// How often.
    pub limits: Arc<RateLimits>,
    /// States of tasks.
    pub poller: Arc<Poller>,
    /// The vendor's accounts.
    pub upstream: Arc<Upstream>,
    /// This process: its memory, its files, its time.
    pub process: Collector,
}

impl Gauges {
    pub(super) fn show(&self) {
        self.callers.show_pool("callers");
        self.upkeep.show_pool("upkeep");
        // Both pools follow the same servers.
        metrics::counter!(m::PRIMARY_CHANGES).absolute(self.callers.primary_changes());
        metrics::counter!(m::LOG_LINES_DROPPED).absolute(crate::log_queue::dropped_lines());
        metrics::gauge!(m::LEASE_HELD).set(u8::from(self.lease.holds()));
        self.keys.show();
        self.limits.show();
        self.poller.show();
        self.upstream.show_accounts();
        self.process.collect();
    }
}
