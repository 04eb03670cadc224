//! Budgets.

mod gateways;
mod levels;
mod model;
mod windows;
