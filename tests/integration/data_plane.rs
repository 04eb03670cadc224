//! The calls that the vendor's clients make.

mod about;
mod archived;
mod bounds;
mod callers;
mod content;
mod document;
mod endpoints;
mod exposure;
mod frames;
mod idempotency;
mod labels;
mod money;
mod repetition;
mod shares;
mod status;
mod validation;
mod vendor_examples;
mod wire;
