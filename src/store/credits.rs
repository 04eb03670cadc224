//! Credits that people move: one road for every entry that is no task's, the balance, and credits that expire.

pub(in crate::store) mod balance;
pub(in crate::store) mod expiry;
pub(in crate::store) mod post;
