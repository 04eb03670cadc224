//! Default limits of organisations, users and keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits of an organisation, user or key without a limit of its own. 0 is no limit. Rates are counted by each gateway.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Maximum number of creates per minute of one key.
    pub key_create_per_minute: u32,
    /// Maximum number of other calls per minute of one key.
    pub key_status_per_minute: u32,
    /// Maximum number of creates per minute of one user.
    pub user_create_per_minute: u32,
    /// Maximum number of other calls per minute of one user.
    pub user_status_per_minute: u32,
    /// Maximum number of creates per minute of one organisation.
    pub org_create_per_minute: u32,
    /// Maximum number of other calls per minute of one organisation.
    pub org_status_per_minute: u32,
    /// Maximum number of calls per minute that the users of one organisation make to the management API.
    pub org_management_per_minute: u32,
    /// Maximum number of calls per minute that one operator makes to the management API.
    pub operator_management_per_minute: u32,
    /// Maximum number of unfinished tasks of one organisation, over all gateways.
    pub max_open_tasks: u32,
    /// What the tasks of one organisation may cost the platform in a UTC day before its creates are stopped until an
    /// operator looks: losses, doubts and overruns, in the vendor's credits. The default is twenty of the dearest tasks.
    pub max_exposure_per_day: u32,
    /// Maximum number of bytes per second of the vendor's long answers (of more than 64 KiB) to one organisation, for each gateway.
    /// It may be ahead by four seconds; beyond that, its tasks are polled later and status calls answer the last known state.
    pub org_answer_bytes_per_second: u32,
    /// Maximum number of failed authentications per minute from one address; further ones are answered 429.
    pub failed_logins_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_create_per_minute: 0,
            key_status_per_minute: 0,
            user_create_per_minute: 0,
            user_status_per_minute: 0,
            org_create_per_minute: 600,
            org_status_per_minute: 12_000,
            org_management_per_minute: 600,
            operator_management_per_minute: 6_000,
            max_open_tasks: 200,
            // 15 seconds of pro with audio cost 1,200.
            max_exposure_per_day: 24_000,
            org_answer_bytes_per_second: 16 << 20,
            failed_logins_per_minute: 60,
        }
    }
}
