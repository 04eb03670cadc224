//! The database server: the embedded one, and servers that fail.

mod embedded;
mod failover;
mod faults;
mod locks;
mod plans;
mod turns;
