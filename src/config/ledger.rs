//! The settings of the ledger, and how long what is not money is kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a batch of the ledger is made durable before its callers are answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// One commit, which waits for the disk while it has locked the row of the balance. Needs nothing special of the
    /// database.
    #[default]
    Plain,
    /// One commit that unlocks the row of the balance without waiting for the disk, then a second one that waits. For
    /// several gateways that share busy organisations, on a slow disk or with a synchronous standby. For a moment others
    /// can read a hold that a crash of the database would still undo; its own caller is answered only once it is durable.
    TwoCommit,
}

/// Lanes, batches, time-outs and periods of the ledger.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// How a batch is made durable. Gateways that share a ledger may differ.
    pub profile: Profile,
    /// Number of lanes, each with a database connection of its own. Four side lanes, for organisations whose rows are locked
    /// by somebody else, have one each too.
    #[schemars(range(min = 1, max = 64))]
    pub lanes: usize,
    /// Maximum number of items in one batch of a lane.
    #[schemars(range(min = 1, max = 1_024))]
    pub max_batch: usize,
    /// Maximum number of reservations that wait in one lane. An organisation gets at most half of the places that are free.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queue: usize,
    /// Time-out for a create to get its hold.
    #[schemars(range(min = 10, max = 60_000))]
    pub reserve_timeout_ms: u64,
    /// Time-out of a lane's call to the database, whose items are then sent again.
    #[schemars(range(min = 100, max = 600_000))]
    pub call_timeout_ms: u64,
    /// Length of a gateway's lease. A gateway that has not renewed its lease for this long counts as dead.
    #[schemars(range(min = 1_000, max = 600_000))]
    pub lease_ms: u64,
    /// How long idempotency keys are kept.
    #[schemars(range(min = 1, max = 8_760))]
    pub idempotency_hours: u32,
    /// Age at which a task in doubt is written off: the organisation is refunded, and the platform books a possible loss.
    #[schemars(range(min = 1, max = 8_760))]
    pub in_doubt_hours: u32,
    /// Interval between the automatic audits of the ledger, each run by one of the gateways. 0: this gateway runs none.
    #[schemars(range(max = 10_080))]
    pub audit_minutes: u32,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            lanes: 4,
            max_batch: 256,
            queue: 4096,
            reserve_timeout_ms: 5_000,
            call_timeout_ms: 10_000,
            lease_ms: 30_000,
            idempotency_hours: 72,
            in_doubt_hours: 24,
            audit_minutes: 60,
        }
    }
}

/// How long what is not money is kept.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// How many days content is kept: what the vendor says about a task, with the prompts and links in it. An organisation may
    /// have a time of its own. Gateways on one database should agree.
    #[schemars(range(max = 3_650))]
    pub content_days: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { content_days: 30 }
    }
}
