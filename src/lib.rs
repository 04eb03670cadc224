//! Tollgate: a gateway that lets many teams share one paid video-generation account.

pub mod admin;
pub mod api_key;
pub mod app;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credits;
pub mod error;
pub mod handlers;
pub mod ids;
pub mod layers;
pub mod ledger;
pub mod metrics;
pub mod poll;
pub mod postgres;
pub mod pricing;
pub mod reconciler;
pub mod secret;
pub mod server;
pub mod simulator;
pub mod stack;
pub mod task;
pub mod upstream;
pub mod wire;
