//! Tollgate: a gateway that lets many teams share one paid video-generation account.

pub mod api_key;
pub mod clock;
pub mod credits;
pub mod ids;
pub mod ledger;
pub mod metrics;
pub mod postgres;
pub mod pricing;
pub mod secret;
pub mod simulator;
pub mod task;
pub mod wire;
