//! Integration tests.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[path = "integration/architecture.rs"]
mod architecture;
#[path = "integration/postgres_cluster.rs"]
mod postgres_cluster;
