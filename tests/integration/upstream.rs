//! A vendor that answers badly, late or never.

mod answers;
mod codings;
mod delays;
mod egress;
mod health;
mod large_answers;
