//! Integration tests.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::disallowed_methods, reason = "tests look at the tables behind the ledger's back")]

#[path = "integration/audit.rs"]
mod audit;
#[path = "integration/credit.rs"]
mod credit;
#[path = "integration/database.rs"]
mod database;
#[path = "integration/fixture.rs"]
mod fixture;
#[path = "integration/ledger.rs"]
mod ledger;
#[path = "integration/ledger_faults.rs"]
mod ledger_faults;
#[path = "integration/ledger_model.rs"]
mod ledger_model;
#[path = "integration/ledger_reserve.rs"]
mod ledger_reserve;
#[path = "integration/lossy_network.rs"]
mod lossy_network;
#[path = "integration/postgres_cluster.rs"]
mod postgres_cluster;
#[path = "integration/prices.rs"]
mod prices;
#[path = "integration/schema.rs"]
mod schema;
