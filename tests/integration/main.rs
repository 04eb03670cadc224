//! Integration tests: helpers in `support`, tests in folders by area.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::disallowed_methods, reason = "tests look at the tables behind the ledger's back")]

mod access;
mod admin;
mod both_profiles;
mod budget;
mod console;
mod credits;
mod data_plane;
mod faults;
mod holds;
mod house;
mod neighbours;
mod operation;
mod postgres;
mod pricing;
mod support;
mod telemetry;
mod upstream;
