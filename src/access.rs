//! Authentication for both planes: credentials become a [`callers::Caller`], and the client's address is found behind proxies.

pub mod callers;
pub mod jwks;
mod lookups;
pub mod oidc;
pub mod proxies;
pub mod sessions;
mod token;
mod trusted;
mod uses;

pub use self::lookups::LOOKUP_CONNECTIONS;
