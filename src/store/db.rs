//! The database: its servers, connections with deadlines, changes on behalf of an actor, and the schema.

pub(in crate::store) mod assumptions;
pub(in crate::store) mod change;
pub(in crate::store) mod database;
mod definitions;
mod demo_mark;
pub(in crate::store) mod epochs;
pub(in crate::store) mod error;
mod looks;
pub(in crate::store) mod metered;
pub(in crate::store) mod migrate;
mod migrations;
pub(in crate::store) mod once;
pub(in crate::store) mod page;
mod partitions;
pub(in crate::store) mod queries;
mod role;
pub(in crate::store) mod servers;
pub(in crate::store) mod session;
pub(in crate::store) mod shared;
pub(in crate::store) mod words;
