//! The management API.

mod api;
mod authorisation;
mod credits;
mod edges;
mod providers;
