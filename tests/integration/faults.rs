//! Faults on real processes: gateways are `tollgate serve`, the database is a PostgreSQL server, and both are killed,
//! stopped, cut off and lied to while customers create tasks.
//!
//! After each fault an oracle outside the system holds three accounts against each other: what the customers were
//! answered ([`load`]), what the vendor's books say ([`vendor`]), and the ledger's rows ([`oracle`]). Each scenario
//! adds a row to a table ([`table`]).
//!
//! `TOLLGATE_FAULTS=long` makes the same scenarios longer and harder; see the README, "For developers".

#[path = "faults/clocks.rs"]
mod clocks;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/failover.rs"]
mod failover;
#[path = "faults/fleet.rs"]
mod fleet;
#[path = "faults/gateway_kills.rs"]
mod gateway_kills;
#[path = "faults/idempotency.rs"]
mod idempotency;
#[path = "faults/load.rs"]
mod load;
#[path = "faults/oracle.rs"]
mod oracle;
#[path = "faults/partitions.rs"]
mod partitions;
#[path = "faults/pauses.rs"]
mod pauses;
#[path = "faults/postgres_kills.rs"]
mod postgres_kills;
#[path = "faults/races.rs"]
mod races;
#[path = "faults/steps.rs"]
mod steps;
#[path = "faults/table.rs"]
mod table;
#[path = "faults/vendor.rs"]
mod vendor;
#[path = "faults/vendor_faults.rs"]
mod vendor_faults;

/// Whether the long form is asked for.
fn long() -> bool {
    std::env::var("TOLLGATE_FAULTS").is_ok_and(|form| form == "long")
}

/// A figure of the short form, or of the long one.
fn scaled<T>(short: T, if_long: T) -> T {
    if long() { if_long } else { short }
}
