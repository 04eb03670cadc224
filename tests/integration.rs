//! Integration tests.

#[path = "integration/postgres_cluster.rs"]
mod postgres_cluster;
