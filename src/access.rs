//! Who calls, for both planes: credentials become one caller, and the client's address is found behind proxies.

pub mod callers;
pub mod jwks;
pub mod peer;
pub mod proxies;
mod token;
mod trusted;
mod uses;

pub use self::callers::{Caller, Operator};
