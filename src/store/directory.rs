//! The directory: organisations, teams, users, keys, identity providers, operators, and the log of who changed what.

pub(in crate::store) mod audit_log;
pub(in crate::store) mod identity;
pub(in crate::store) mod keys;
pub(in crate::store) mod names;
pub(in crate::store) mod operators;
pub(in crate::store) mod sessions;
pub(in crate::store) mod tenancy;
