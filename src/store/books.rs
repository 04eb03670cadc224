//! Reading the ledger: entries, statements, summaries, usage, drift, exposure, what alarms watch and people look at, and the audit that proves them consistent.

pub(in crate::store) mod archive;
pub(in crate::store) mod audit;
pub(in crate::store) mod drift;
pub(in crate::store) mod entries;
pub(in crate::store) mod exposure;
pub(in crate::store) mod health;
pub(in crate::store) mod months;
pub(in crate::store) mod statement;
pub(in crate::store) mod summary;
pub(in crate::store) mod task_totals;
pub(in crate::store) mod totals;
pub(in crate::store) mod usage;
pub(in crate::store) mod usage_local;
pub(in crate::store) mod usage_top;
pub(in crate::store) mod watch;
