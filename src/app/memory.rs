//! How much memory a gateway may need with its settings: one calculation for the settings, the limits of the shipped units and
//! `tollgate config check`.

use super::run::{HEADS, OPERATIONS_CONNECTIONS, OPERATIONS_HEADS};
use crate::config::Config;
use crate::server::{CONNECTION_MEMORY, STRANGERS_MEMORY};

/// The program, its threads, pools, lanes, metrics and the log's queue.
const PROGRAM: u64 = 96 << 20;

/// A cached key or identity with its place in its cache: there are as many of either.
const CACHED_KEY: u64 = 1 << 10;
const KEY_CACHES: u64 = 2;

/// What the memory is for, and how many bytes of it there may be at most.
pub fn memory(config: &Config) -> [(&'static str, u64); 6] {
    let connections = config.server.max_connections.saturating_add(OPERATIONS_CONNECTIONS);
    let connections = connections.saturating_mul(CONNECTION_MEMORY);
    // Each listener has its own.
    let heads = HEADS + OPERATIONS_HEADS + 2 * STRANGERS_MEMORY;
    [
        ("the program", PROGRAM),
        ("connections (server.max_connections)", connections.try_into().unwrap_or(u64::MAX)),
        ("heads of requests in progress", heads.try_into().unwrap_or(u64::MAX)),
        (
            "bodies and answers (server.max_bytes_under_way)",
            config.server.max_bytes_under_way.try_into().unwrap_or(u64::MAX),
        ),
        ("states of tasks (status.cache_bytes)", config.status.cache_bytes),
        (
            "keys and identities (auth.cached_keys, of each)",
            config.auth.cached_keys.saturating_mul(KEY_CACHES * CACHED_KEY),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_units_give_as_much_as_the_defaults_may_need() {
        let least = "[database]\nurl = \"postgres://x\"\n[upstream.kling_3]\nbase_url = \"http://x\"\nmaster_key = \"k\"\n";
        let needed: u64 = memory(&Config::from_toml(least).unwrap()).iter().map(|(_, bytes)| bytes).sum();
        assert!(needed <= 1 << 30, "{needed}");
        let units = [
            (include_str!("../../deploy/systemd/tollgate.service"), "MemoryMax=1G"),
            (include_str!("../../deploy/compose/compose.yml"), "memory: 1g"),
            (include_str!("../../deploy/kustomize/base/deployment.yaml"), "memory: 1Gi"),
        ];
        for (unit, limit) in units {
            assert!(unit.contains(limit), "{limit}");
        }
    }
}
