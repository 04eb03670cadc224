//! The management API.

mod api;
mod authorisation;
mod bounds;
mod conditions;
mod credits;
mod edges;
mod providers;
