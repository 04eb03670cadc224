//! The database server: the embedded one, and servers that fail.

mod assumptions;
mod embedded;
mod failover;
mod faults;
mod locks;
mod plans;
mod poolers;
mod restore;
mod turns;
