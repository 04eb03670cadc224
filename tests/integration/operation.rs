//! `tollgate` as a process: commands, several gateways at once, TLS, shutdown.

mod command_line;
mod configuration;
mod demo;
mod doctor;
mod draining;
mod jobs;
mod operations;
mod replicas;
mod tenant_life;
mod tls;
