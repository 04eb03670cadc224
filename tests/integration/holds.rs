//! Holds and the life of a task.

pub mod archived;
mod archived_kills;
mod audit;
mod audit_open;
mod audit_runs;
mod consumption;
mod doubt;
mod evidence;
mod exposure;
mod faults;
mod finishing;
mod labels;
mod lane_mates;
pub mod lanes;
mod model;
mod months;
mod partitions;
mod profiles;
mod reserve;
mod seals;
mod steps;
