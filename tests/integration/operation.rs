//! `tollgate` as a process: commands, several gateways at once, TLS, shutdown.

mod command_line;
mod demo;
mod draining;
mod operations;
mod replicas;
mod tenant_life;
mod tls;
