//! A vendor that answers badly, late or never.

mod answers;
mod delays;
mod health;
