//! What tests are made of: databases, gateways, vendors, networks, processes, and the audits at their ends.

pub mod admin_client;
pub mod aged;
pub mod browser;
pub mod cgroup;
pub mod cluster;
pub mod company;
pub mod connection;
pub mod database;
pub mod edge;
pub mod faults;
pub mod fixture;
pub mod gateway;
pub mod http;
pub mod identity_provider;
pub mod leaks;
pub mod network;
pub mod openid;
pub mod operations;
pub mod otlp;
pub mod process;
pub mod replica;
pub mod schema;
pub mod seed;
pub mod sources;
pub mod tenant;
pub mod watched;
