//! The settings of the caches behind authentication.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Caching of credentials, and of the keys of identity providers.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Maximum number of API keys in the cache.
    pub cached_keys: u64,
    /// How long cached keys are accepted for status calls while the database is unavailable.
    pub stale_max_ms: u64,
    /// Interval at which the keys of an identity provider are fetched again. If that fails, the old keys are used for
    /// another `stale_max_ms`.
    #[schemars(range(min = 100, max = 86_400_000))]
    pub jwks_refresh_ms: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { cached_keys: 50_000, stale_max_ms: 300_000, jwks_refresh_ms: 300_000 }
    }
}
