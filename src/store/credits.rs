//! Credits that people move: one function for every entry that is not a task's, the balance, and credits that expire.

pub(in crate::store) mod balance;
pub(in crate::store) mod expiry;
pub(in crate::store) mod post;
