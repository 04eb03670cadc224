//! Real gateways under real faults: a fleet of processes, the customers in front of it, and an oracle that holds their
//! answers, the vendor's books and the ledger's rows against each other.
//!
//! `TOLLGATE_FAULTS=long` makes the same scenarios longer and harder; see `docs/testing.md`.

pub mod fleet;
pub mod habits;
pub mod load;
pub mod oracle;
pub mod table;
pub mod vendor;

/// Whether the long form is asked for.
pub fn long() -> bool {
    std::env::var("TOLLGATE_FAULTS").is_ok_and(|form| form == "long")
}

/// A figure of the short form, or of the long one.
pub fn scaled<T>(short: T, if_long: T) -> T {
    if long() { if_long } else { short }
}
