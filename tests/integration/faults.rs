//! Faults on real processes: gateways are `tollgate serve`, the database is a PostgreSQL server, and both are killed,
//! stopped, cut off and lied to while customers create tasks.
//!
//! After each fault an oracle outside the system holds three accounts against each other: what the customers were
//! answered, what the vendor's books say, and the ledger's rows (`support/faults`). Each scenario adds a row to a table.

mod clocks;
mod disk;
mod failover;
mod frozen;
mod gateway_kills;
mod idempotency;
mod partitions;
mod pauses;
mod postgres_kills;
mod races;
mod repetitions;
mod steps;
mod vendor_faults;
