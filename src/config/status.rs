//! The settings of status calls and of the reconciler: how often the vendor is asked about tasks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answers to status calls, and the cache behind them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StatusConfig {
    /// Age from which a cached state is asked for at the vendor again.
    pub min_interval_ms: u64,
    /// Maximum time that a status call waits for the vendor's answer before it gets the cached state.
    #[schemars(range(min = 0, max = 2_000))]
    pub wait_ms: u64,
    /// Approximate size of the cache of task states; states of more than 64 KiB have a quarter of it.
    pub cache_bytes: u64,
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self { min_interval_ms: 2_000, wait_ms: 2_000, cache_bytes: 128 << 20 }
    }
}

/// The reconciler, which polls unfinished tasks, so that they end although no caller asks for them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reconciler {
    /// Maximum number of polls per second of all gateways on one database together. Polls for clients' status calls count,
    /// and get at most half of them.
    #[schemars(range(min = 1, max = 100_000))]
    pub polls_per_second: u32,
    /// Maximum number of concurrent polls of one backend.
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: usize,
    /// Time from a create to the first poll of its task; later polls are further apart.
    #[schemars(range(min = 10, max = 86_400_000))]
    pub interval_ms: u64,
    /// Interval between two searches for tasks that are due for polling.
    #[schemars(range(min = 10, max = 60_000))]
    pub tick_ms: u64,
    /// Age from which an unfinished task is in doubt.
    #[schemars(range(min = 1, max = 8_760))]
    pub max_task_age_hours: u32,
}

impl Default for Reconciler {
    fn default() -> Self {
        Self {
            polls_per_second: 50,
            concurrency: 48,
            interval_ms: 5_000,
            tick_ms: 500,
            max_task_age_hours: 24,
        }
    }
}
