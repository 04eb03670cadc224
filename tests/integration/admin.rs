//! The management API.

mod api;
mod authorisation;
mod bounds;
mod credits;
mod edges;
mod providers;
mod requests;
