//! What strangers and single organisations take must not be felt by their neighbours: each attack at full strength against a
//! real gateway, and beside it organisations that do nothing wrong.
//!
//! `TOLLGATE_FAULTS=long` makes the attacks last longer and compares the neighbours' times with those of the same run without
//! an attack (`docs/testing.md`).

mod bodies;
mod connections;
mod strangers;
mod street;
mod tenants;
