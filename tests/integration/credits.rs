//! Credits that come and go without a task, and what an organisation can read of them.

mod expiry;
mod operators;
mod posting;
mod reporting;
mod statement;
mod task_totals;
mod totals;
mod usage;
