//! Integration tests.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
#![expect(clippy::disallowed_methods, reason = "tests look at the tables behind the ledger's back")]

#[path = "integration/admin_api.rs"]
mod admin_api;
#[path = "integration/admin_credits.rs"]
mod admin_credits;
#[path = "integration/admin_edges.rs"]
mod admin_edges;
#[path = "integration/architecture.rs"]
mod architecture;
#[path = "integration/audit.rs"]
mod audit;
#[path = "integration/audit_runs.rs"]
mod audit_runs;
#[path = "integration/authorisation.rs"]
mod authorisation;
#[path = "integration/both_profiles.rs"]
mod both_profiles;
#[path = "integration/budget_gateways.rs"]
mod budget_gateways;
#[path = "integration/budget_model.rs"]
mod budget_model;
#[path = "integration/budget_windows.rs"]
mod budget_windows;
#[path = "integration/budgets.rs"]
mod budgets;
#[path = "integration/cluster.rs"]
mod cluster;
#[path = "integration/command_line.rs"]
mod command_line;
#[path = "integration/connection.rs"]
mod connection;
#[path = "integration/consumption.rs"]
mod consumption;
#[path = "integration/credit.rs"]
mod credit;
#[path = "integration/data_plane_document.rs"]
mod data_plane_document;
#[path = "integration/database.rs"]
mod database;
#[path = "integration/database_faults.rs"]
mod database_faults;
#[path = "integration/doubt.rs"]
mod doubt;
#[path = "integration/draining.rs"]
mod draining;
#[path = "integration/endpoints.rs"]
mod endpoints;
#[path = "integration/expiry.rs"]
mod expiry;
#[path = "integration/failover.rs"]
mod failover;
#[path = "integration/faults.rs"]
mod faults;
#[path = "integration/fixture.rs"]
mod fixture;
#[path = "integration/gateway.rs"]
mod gateway;
#[path = "integration/idempotency.rs"]
mod idempotency;
#[path = "integration/identity_provider.rs"]
mod identity_provider;
#[path = "integration/keys.rs"]
mod keys;
#[path = "integration/leaks.rs"]
mod leaks;
#[path = "integration/ledger.rs"]
mod ledger;
#[path = "integration/ledger_faults.rs"]
mod ledger_faults;
#[path = "integration/ledger_model.rs"]
mod ledger_model;
#[path = "integration/ledger_reserve.rs"]
mod ledger_reserve;
#[path = "integration/limits.rs"]
mod limits;
#[path = "integration/metrics.rs"]
mod metrics;
#[path = "integration/money.rs"]
mod money;
#[path = "integration/network.rs"]
mod network;
#[path = "integration/operations.rs"]
mod operations;
#[path = "integration/operator_credit.rs"]
mod operator_credit;
#[path = "integration/otlp.rs"]
mod otlp;
#[path = "integration/postgres_cluster.rs"]
mod postgres_cluster;
#[path = "integration/price_api.rs"]
mod price_api;
#[path = "integration/price_drafts.rs"]
mod price_drafts;
#[path = "integration/price_factors.rs"]
mod price_factors;
#[path = "integration/price_history.rs"]
mod price_history;
#[path = "integration/prices.rs"]
mod prices;
#[path = "integration/process.rs"]
mod process;
#[path = "integration/proxies.rs"]
mod proxies;
#[path = "integration/quotes.rs"]
mod quotes;
#[path = "integration/reconciler.rs"]
mod reconciler;
#[path = "integration/replicas.rs"]
mod replicas;
#[path = "integration/reporting.rs"]
mod reporting;
#[path = "integration/revocation.rs"]
mod revocation;
#[path = "integration/schema.rs"]
mod schema;
#[path = "integration/statement.rs"]
mod statement;
#[path = "integration/status.rs"]
mod status;
#[path = "integration/tenant_life.rs"]
mod tenant_life;
#[path = "integration/tls.rs"]
mod tls;
#[path = "integration/tokens.rs"]
mod tokens;
#[path = "integration/traces.rs"]
mod traces;
#[path = "integration/upstream_answers.rs"]
mod upstream_answers;
#[path = "integration/upstream_delays.rs"]
mod upstream_delays;
#[path = "integration/upstream_health.rs"]
mod upstream_health;
#[path = "integration/usage.rs"]
mod usage;
#[path = "integration/validation.rs"]
mod validation;
#[path = "integration/vendor_examples.rs"]
mod vendor_examples;
#[path = "integration/what_if.rs"]
mod what_if;
#[path = "integration/wire.rs"]
mod wire;
