//! Integration tests.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::disallowed_methods, reason = "tests look at the tables behind the ledger's back")]

#[path = "integration/command_line.rs"]
mod command_line;
#[path = "integration/consumption.rs"]
mod consumption;
#[path = "integration/database.rs"]
mod database;
#[path = "integration/endpoints.rs"]
mod endpoints;
#[path = "integration/gateway.rs"]
mod gateway;
#[path = "integration/idempotency.rs"]
mod idempotency;
#[path = "integration/limits.rs"]
mod limits;
#[path = "integration/money.rs"]
mod money;
#[path = "integration/operations.rs"]
mod operations;
#[path = "integration/postgres_cluster.rs"]
mod postgres_cluster;
#[path = "integration/process.rs"]
mod process;
#[path = "integration/replicas.rs"]
mod replicas;
#[path = "integration/status.rs"]
mod status;
#[path = "integration/upstream_answers.rs"]
mod upstream_answers;
#[path = "integration/upstream_delays.rs"]
mod upstream_delays;
#[path = "integration/validation.rs"]
mod validation;
#[path = "integration/vendor_examples.rs"]
mod vendor_examples;
#[path = "integration/wire.rs"]
mod wire;
