//! The management API.

mod api;
mod authorisation;
mod bounds;
mod conditions;
mod credits;
mod deletion;
mod edges;
mod forgetting;
mod members;
mod providers;
mod requests;
mod tenants;
