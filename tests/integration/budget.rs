//! Budgets.

mod counting;
mod gateways;
mod levels;
mod model;
mod windows;
