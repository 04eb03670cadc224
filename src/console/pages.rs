//! The pages, a file each.

pub(super) mod budgets;
pub(super) mod choice;
pub(super) mod clip;
pub(super) mod clips;
pub(super) mod create;
pub(super) mod keys;
pub(super) mod operators;
pub(super) mod people;
pub(super) mod playground;
pub(super) mod provider;
pub(super) mod sessions;
pub(super) mod sign_in;
pub(super) mod start;
pub(super) mod statement;
pub(super) mod usage;
